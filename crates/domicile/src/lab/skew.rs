//! How does a process get a clock that is wrong?
//!
//! By libfaketime, which stands between a program and the system's clock. Only the time of day is another one:
//! what counts seconds since something goes on as it is, as on a machine whose clock was set wrong.

use std::path::PathBuf;

use super::cluster::LabError;

/// Where Debian's package `libfaketime` puts it, and where others do.
const FOLDERS: &[&str] = &[
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/lib",
];
/// The one for programs of several threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// What a process needs in its environment whose clock is to be `seconds` ahead of the machine's, or behind it.
pub fn environment(seconds: i64) -> Result<Vec<(String, String)>, LabError> {
    let given = std::env::var_os("DOMICILE_FAKETIME").map(PathBuf::from);
    let places = FOLDERS.iter().map(|folder| PathBuf::from(folder).join(LIBRARY));
    let mut places = given.into_iter().chain(places);
    let library = places.find(|place| place.exists()).ok_or(LabError::NoFaketime)?;
    let variable = |name: &str, value: String| (name.to_owned(), value);
    Ok(vec![
        variable("LD_PRELOAD", library.display().to_string()),
        variable("FAKETIME", format!("{seconds:+}s")),
        variable("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}
