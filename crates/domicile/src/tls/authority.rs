//! Where do certificates come from, where there is no authority of one's own yet?

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

pub const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
/// Ten years, leap days left out: who changes an authority changes everything.
const CA_DAYS: i64 = 3650;
/// Clocks that go a little behind must not refuse what is new.
const VALID_BEFORE: Duration = Duration::hours(1);

/// Whom a certificate is for.
pub struct Holder {
    /// Of the two files.
    pub name: String,
    /// Names and addresses at which others reach it.
    pub hosts: Vec<String>,
}

/// Writes `<name>.pem` and `<name>.key` for each holder, signed by the authority in `folder`; makes
/// that, as `ca.pem` and `ca.key`, if it is not there. Returns whether it did.
///
/// What a holder had before is replaced, each file in one step.
pub fn issue(folder: &Path, cluster: &str, holders: &[Holder], days: u32) -> anyhow::Result<bool> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let (ca, ca_key) = (folder.join(CA), folder.join(CA_KEY));
    let new = !ca.exists() && !ca_key.exists();
    if new {
        found(&ca, &ca_key, cluster)?;
    }
    let key = KeyPair::from_pem(&read(&ca_key)?).with_context(|| used(&ca_key))?;
    let issuer = Issuer::from_ca_cert_pem(&read(&ca)?, key).with_context(|| used(&ca))?;
    for holder in holders {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(holder.hosts.clone())
            .with_context(|| format!("a certificate for {}", holder.hosts.join(", ")))?;
        name(&mut params, cluster, &holder.name);
        valid(&mut params, days.into());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Agents are asked, and ask.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer)?;
        write(&folder.join(format!("{}.key", holder.name)), &key.serialize_pem())?;
        write(&folder.join(format!("{}.pem", holder.name)), &certificate.pem())?;
    }
    Ok(new)
}

fn found(ca: &Path, ca_key: &Path, cluster: &str) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    name(&mut params, cluster, "authority");
    valid(&mut params, CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    write(ca_key, &key.serialize_pem())?;
    write(ca, &certificate.pem())
}

fn name(params: &mut CertificateParams, cluster: &str, name: &str) {
    params.distinguished_name.push(DnType::OrganizationName, format!("Domicile {cluster}"));
    params.distinguished_name.push(DnType::CommonName, name);
}

fn valid(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - VALID_BEFORE, now + Duration::days(days));
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn used(path: &Path) -> String {
    format!("use {}", path.display())
}

/// Readable by its owner only, and never half.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = PathBuf::from(format!("{}.new", path.display()));
    let made = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    made().with_context(|| format!("write {}", path.display()))
}
