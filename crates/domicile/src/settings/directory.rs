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
    let Some(endpoints) = &written.endpoints else {
        refuse_keys_of_etcd(written, mistakes);
        return embedded(written, None, mistakes);
    };
    let etcd = etcd(written, endpoints, mistakes);
    match written.address.is_some() || written.data.is_some() {
        true => embedded(written, Some(etcd), mistakes),
        false => Some(Directory::Etcd(etcd)),
    }
}

fn embedded(
    written: &WrittenDirectory,
    next: Option<Etcd>,
    mistakes: &mut Mistakes,
) -> Option<Directory> {
    let address = regions::address("directory.address", written.address.as_deref(), mistakes);
    let data = required("directory.data", written.data.as_deref(), mistakes);
    Some(Directory::Embedded { address: address?, data: data?.to_owned(), next })
}

fn refuse_keys_of_etcd(written: &WrittenDirectory, mistakes: &mut Mistakes) {
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
}

fn etcd(written: &WrittenDirectory, endpoints: &Names, mistakes: &mut Mistakes) -> Etcd {
    let path = "directory.endpoints";
    let listed = endpoints.list();
    if listed.is_empty() || listed.len() > ENDPOINTS_MAX {
        let text = format!("has {} members, 1 to {ENDPOINTS_MAX} are possible", listed.len());
        mistakes.add(path, text);
    }
    let mut seen: Vec<String> = Vec::new();
    for endpoint in &listed {
        let Some(address) = regions::address(path, Some(endpoint), mistakes) else { continue };
        if seen.contains(&address) {
            mistakes.add(path, format!("names \"{address}\" twice"));
        }
        seen.push(address);
    }
    let shown = ("certificate", &written.certificate);
    let identity = both(shown, ("key", &written.key), mistakes);
    let login = both(("user", &written.user), ("password_file", &written.password_file), mistakes);
    let ca = match &written.ca {
        None if written.certificate.is_some() || written.key.is_some() => {
            mistakes.add("directory.ca", "is missing: a certificate is shown by TLS only");
            None
        }
        None => None,
        Some(text) => required("directory.ca", Some(text), mistakes).map(str::to_owned),
    };
    let identity = identity.map(|(certificate, key)| Identity { certificate, key });
    let login = login.map(|(user, password_file)| Login { user, password_file });
    let tls = ca.map(|ca| Tls { ca, identity });
    Etcd { endpoints: seen, tls, login }
}

/// Returns two texts of which neither goes without the other; `None` where neither is there.
fn both(
    one: (&str, &Option<String>),
    other: (&str, &Option<String>),
    mistakes: &mut Mistakes,
) -> Option<(String, String)> {
    if one.1.is_none() && other.1.is_none() {
        return None;
    }
    let [one, other] = [one, other].map(|(key, text)| {
        required(&format!("directory.{key}"), text.as_deref(), mistakes).map(str::to_owned)
    });
    Some((one?, other?))
}
