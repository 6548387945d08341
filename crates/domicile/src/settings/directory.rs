//! Which directory, and how is it reached?

use domicile_core::config::{Directory, Etcd, Identity, Login, Tls};

use super::mistake::Mistakes;
use super::regions;
use super::resolve::required;
use super::written::{Names, WrittenDirectory};

/// Members of an etcd cluster; more make it slower and no safer.
const ENDPOINTS_MAX: usize = 9;

/// Returns the directory, unless something is wrong with it.
pub(super) fn resolve(
    written: Option<&WrittenDirectory>,
    mistakes: &mut Mistakes,
) -> Option<Directory> {
    let none = WrittenDirectory::default();
    let written = written.unwrap_or(&none);
    match &written.endpoints {
        None => embedded(written, mistakes),
        Some(endpoints) => etcd(written, endpoints, mistakes),
    }
}

fn embedded(written: &WrittenDirectory, mistakes: &mut Mistakes) -> Option<Directory> {
    let address = regions::address("directory.address", written.address.as_deref(), mistakes);
    let data = required("directory.data", written.data.as_deref(), mistakes);
    for (key, given) in [
        ("ca", &written.ca),
        ("certificate", &written.certificate),
        ("key", &written.key),
        ("user", &written.user),
        ("password_file", &written.password_file),
    ] {
        if given.is_some() {
            mistakes.add(format!("directory.{key}"), "goes with endpoints, of etcd");
        }
    }
    Some(Directory::Embedded { address: address?, data: data?.to_owned() })
}

fn etcd(
    written: &WrittenDirectory,
    endpoints: &Names,
    mistakes: &mut Mistakes,
) -> Option<Directory> {
    for (key, given) in [("address", &written.address), ("data", &written.data)] {
        if given.is_some() {
            let text = "is of the embedded directory, and endpoints say that it is etcd";
            mistakes.add(format!("directory.{key}"), text);
        }
    }
    let path = "directory.endpoints";
    let listed = endpoints.list();
    if listed.is_empty() || listed.len() > ENDPOINTS_MAX {
        mistakes
            .add(path, format!("has {} members, 1 to {ENDPOINTS_MAX} are possible", listed.len()));
    }
    let mut seen: Vec<String> = Vec::new();
    for endpoint in &listed {
        let Some(address) = regions::address(path, Some(endpoint), mistakes) else { continue };
        if seen.contains(&address) {
            mistakes.add(path, format!("names \"{address}\" twice"));
        }
        seen.push(address);
    }
    let pair =
        |given: (&str, &Option<String>), with: (&str, &Option<String>), mistakes: &mut Mistakes| {
            let file = |(key, value): (&str, &Option<String>), mistakes: &mut Mistakes| {
                required(&format!("directory.{key}"), value.as_deref(), mistakes).map(str::to_owned)
            };
            let any = given.1.is_some() || with.1.is_some();
            any.then(|| Some((file(given, mistakes)?, file(with, mistakes)?)))
        };
    let (certificate, key) = (("certificate", &written.certificate), ("key", &written.key));
    let identity = pair(certificate, key, mistakes);
    let (user, password) = (("user", &written.user), ("password_file", &written.password_file));
    let login = pair(user, password, mistakes);
    let ca = match &written.ca {
        None if identity.is_some() => {
            mistakes.add("directory.ca", "is missing: a certificate is shown by TLS only");
            None
        }
        None => None,
        Some(text) => required("directory.ca", Some(text), mistakes).map(str::to_owned),
    };
    let identity = identity.flatten().map(|(certificate, key)| Identity { certificate, key });
    let login = login.flatten().map(|(user, password_file)| Login { user, password_file });
    let tls = ca.map(|ca| Tls { ca, identity });
    Some(Directory::Etcd(Etcd { endpoints: seen, tls, login }))
}
