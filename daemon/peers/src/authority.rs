//! The cluster's own certificate authority: makes it, and issues the certificates by which nodes know each other. Owns
//! the files `ca.pem`, `ca.key`, `node-I.pem`, `node-I.key`; it must never overwrite one unasked, nor leave a key
//! readable by others.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use xxhash_rust::xxh3::xxh3_64;

use super::tls::NodeName;

/// Certificates begin to be valid this much before they are made, for clocks that differ between nodes.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const CLUSTER_CHARS_MAX: usize = 40;
const CLUSTER_TITLE: &str = "Rudder cluster ";

/// Why an authority or a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file is there already.
    #[error("{} exists; keep it, choose another folder with --out, or overwrite it with --force", .0.display())]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("cannot read or write {}{hint}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// A cluster name that cannot stand in a certificate.
    #[error("cluster name {0:?} must be 1 to {CLUSTER_CHARS_MAX} of a-z, 0-9 and inner hyphens")]
    Cluster(String),
    /// A life of no days, or one beyond what certificates can say.
    #[error("{0} days is outside 1 to 36500")]
    Days(u32),
    /// The authority's files are not an authority's.
    #[error("{}: {problem}; make an authority with rudder certs init", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The library could not make a certificate.
    #[error("cannot make the certificate")]
    Make(#[from] rcgen::Error),
}

/// The pair of files that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM, mode 0600.
    pub key: PathBuf,
    /// Name of the cluster.
    pub cluster: String,
    /// End of validity in seconds since 1970.
    pub not_after_unix_s: u64,
}

/// A certificate and its key, as PEM.
pub(crate) struct Made {
    pub(crate) certificate: String,
    pub(crate) key: String,
    cluster: String,
    not_after_unix_s: u64,
}

/// Makes the authority of a cluster: `ca.pem` and `ca.key` in `out`.
///
/// # Errors
/// When a file exists and `force` is not set, when the name or days make no sense, or when files cannot be written.
pub fn init(out: &Path, cluster: &str, days: u32, force: bool) -> Result<Written, AuthorityError> {
    let made = make_authority(cluster, days)?;
    write_pair(out.join("ca.pem"), out.join("ca.key"), made, force)
}

/// An authority that is nowhere but in memory.
pub(crate) fn make_authority(cluster: &str, days: u32) -> Result<Made, AuthorityError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let length = (1..=CLUSTER_CHARS_MAX).contains(&cluster.len());
    if !length || !cluster.chars().all(allowed) || cluster.starts_with('-') || cluster.ends_with('-') {
        return Err(AuthorityError::Cluster(cluster.to_owned()));
    }
    let mut params = CertificateParams::default();
    let not_after_unix_s = set_validity(&mut params, days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    params.distinguished_name = authority_name(cluster, &key);
    // The cluster's name is read back from here when certificates are issued.
    params.subject_alt_names = vec![rcgen::SanType::DnsName(format!("{cluster}.rudder").try_into()?)];
    let certificate = params.self_signed(&key)?.pem();
    Ok(Made { certificate, key: key.serialize_pem(), cluster: cluster.to_owned(), not_after_unix_s })
}

/// The name of the authority of `cluster` that has this key: what a certificate says of its issuer. Two authorities of
/// one cluster name must not pass for each other: an unknown issuer is a clearer complaint than a bad signature.
fn authority_name(cluster: &str, key: &KeyPair) -> DistinguishedName {
    let id = xxh3_64(key.public_key_raw());
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("{CLUSTER_TITLE}{cluster}, authority {id:016x}"));
    name
}

/// Issues the certificate of node `node`: `node-I.pem` and `node-I.key` in `out`, signed by the authority in
/// `authority`.
///
/// # Errors
/// When the authority's files are missing or no authority, when a file exists and `force` is not set, or when files
/// cannot be written.
pub fn issue(authority: &Path, node: u16, out: &Path, days: u32, force: bool) -> Result<Written, AuthorityError> {
    let (ca_path, key_path) = (authority.join("ca.pem"), authority.join("ca.key"));
    let made = make_node((&read(&ca_path)?, &ca_path), (&read(&key_path)?, &key_path), node, days)?;
    write_pair(out.join(format!("node-{node}.pem")), out.join(format!("node-{node}.key")), made, force)
}

/// A node's certificate that is nowhere but in memory, by the authority of this certificate and key; errors name their
/// paths.
pub(crate) fn make_node(
    (ca_pem, ca_path): (&str, &Path),
    (ca_key, key_path): (&str, &Path),
    node: u16,
    days: u32,
) -> Result<Made, AuthorityError> {
    let unusable = |path: &Path, problem: String| AuthorityError::Authority { path: path.to_owned(), problem };
    let ca_key = KeyPair::from_pem(ca_key).map_err(|error| unusable(key_path, error.to_string()))?;
    let cluster = cluster_of(ca_pem).ok_or_else(|| unusable(ca_path, "is not a Rudder authority".to_owned()))?;
    // What signing needs to know of the authority follows from its name and its key; whether they are those of `ca.pem`
    // is checked below.
    let mut authority = CertificateParams::default();
    authority.distinguished_name = authority_name(&cluster, &ca_key);
    let issuer = Issuer::new(authority, ca_key);
    let name = NodeName { node, cluster: cluster.clone() };
    let mut params = CertificateParams::new(vec![name.to_string()])?;
    let not_after_unix_s = set_validity(&mut params, days)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.to_string());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Every node both dials and answers.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    check_signed(ca_pem, certificate.der(), &name).map_err(|problem| unusable(key_path, problem))?;
    Ok(Made { certificate: certificate.pem(), key: key.serialize_pem(), cluster, not_after_unix_s })
}

fn cluster_of(ca_pem: &str) -> Option<String> {
    let der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).ok()?;
    let certificate = webpki::EndEntityCert::try_from(&der).ok()?;
    certificate.valid_dns_names().find_map(|name| name.strip_suffix(".rudder").map(str::to_owned))
}

/// Catches a `ca.key` that belongs to another `ca.pem` here rather than in every later handshake.
fn check_signed(ca_pem: &str, certificate: &CertificateDer<'_>, name: &NodeName) -> Result<(), String> {
    let check = || -> Result<(), rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(
            CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| rustls::Error::General(e.to_string()))?,
        )?;
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), super::tls::provider())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        let server = rustls::pki_types::ServerName::try_from(name.to_string())
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let now = rustls::pki_types::UnixTime::now();
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            certificate,
            &[],
            &server,
            &[],
            now,
        )?;
        Ok(())
    };
    check().map_err(|error| format!("cannot sign for ca.pem ({error}): expired, or the two are not of one authority"))
}

/// Sets the days of validity; returns the end in seconds since 1970.
fn set_validity(params: &mut CertificateParams, days: u32) -> Result<u64, AuthorityError> {
    if !(1..=36_500).contains(&days) {
        return Err(AuthorityError::Days(days));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + (now + DAY * days);
    Ok((now + DAY * days).as_secs())
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    let hint = "; make an authority with rudder certs init, and name its folder with --authority";
    fs::read_to_string(path).map_err(|cause| AuthorityError::File { path: path.to_owned(), cause, hint })
}

fn write_pair(certificate: PathBuf, key: PathBuf, made: Made, force: bool) -> Result<Written, AuthorityError> {
    let files = Written { certificate, key, cluster: made.cluster, not_after_unix_s: made.not_after_unix_s };
    let pair = [(&files.key, &made.key, 0o600), (&files.certificate, &made.certificate, 0o644)];
    if let Some((path, ..)) = pair.iter().find(|(path, ..)| !force && path.exists()) {
        return Err(AuthorityError::Exists(path.to_path_buf()));
    }
    if let Some(folder) = files.key.parent() {
        let fail = |cause| AuthorityError::File { path: folder.to_owned(), cause, hint: "" };
        fs::create_dir_all(folder).map_err(fail)?;
    }
    for (path, text, mode) in pair {
        write(path, text, mode, force).map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => AuthorityError::Exists(path.clone()),
            _ => AuthorityError::File { path: path.clone(), cause, hint: "" },
        })?;
    }
    Ok(files)
}

/// Writes through a new file, so that a key never exists with a wider mode and an old one never half overwritten.
fn write(path: &Path, text: &str, mode: u32, force: bool) -> io::Result<()> {
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    if !force {
        return create(path)?.write_all(text.as_bytes());
    }
    let next = path.with_extension(format!("new.{}", std::process::id()));
    let written = create(&next).and_then(|mut file| file.write_all(text.as_bytes()));
    written.and_then(|()| fs::rename(&next, path)).inspect_err(|_| drop(fs::remove_file(&next)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::tls::Validity;
    use super::*;

    #[test]
    fn issues_certificates_that_name_their_node() {
        let dir = tempfile::tempdir().unwrap();
        let ca = init(dir.path(), "blue", 30, false).unwrap();
        let node = issue(dir.path(), 3, dir.path(), 30, false).unwrap();
        assert_eq!(node.certificate, dir.path().join("node-3.pem"));
        let der = CertificateDer::from_pem_file(&node.certificate).unwrap();
        assert_eq!(NodeName::of_certificate(&der), Some(NodeName { node: 3, cluster: "blue".to_owned() }));
        for key in [&ca.key, &node.key] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn validity_is_read_off_certificates_of_both_centuries() {
        let dir = tempfile::tempdir().unwrap();
        // Until 2049 the end is written with two digits of the year, from 2050 on with four (RFC 5280, section
        // 4.1.2.5).
        for days in [1, 36_500] {
            let written = init(dir.path(), "blue", days, true).unwrap();
            let certificate = CertificateDer::from_pem_file(&written.certificate).unwrap();
            let validity = Validity::of_certificate(&certificate).unwrap();
            assert_eq!(validity.not_after, written.not_after_unix_s as i64);
            let life = i64::from(days) * 86_400 + CLOCK_SKEW.as_secs() as i64;
            assert!((validity.not_after - validity.not_before - life).abs() <= 1, "{validity:?}");
            let (half, rest) = certificate.split_at(certificate.len() / 2);
            assert_eq!(Validity::of_certificate(&half.into()), None);
            assert_eq!(Validity::of_certificate(&rest.into()), None);
        }
    }

    #[test]
    fn overwrites_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "blue", 30, false).unwrap();
        let before = fs::read(dir.path().join("ca.key")).unwrap();
        let error = init(dir.path(), "blue", 30, false).unwrap_err();
        assert!(matches!(&error, AuthorityError::Exists(path) if path.ends_with("ca.key")), "{error}");
        assert_eq!(fs::read(dir.path().join("ca.key")).unwrap(), before);
        init(dir.path(), "blue", 30, true).unwrap();
        assert_ne!(fs::read(dir.path().join("ca.key")).unwrap(), before);
        assert_eq!(fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn wrong_inputs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = issue(dir.path(), 0, dir.path(), 30, false).unwrap_err().to_string();
        assert!(error.contains("ca.pem") && error.contains("rudder certs init"), "{error}");
        for name in ["", "Blue", "-b", "b-", "a.b", &"x".repeat(41)] {
            assert!(matches!(init(dir.path(), name, 30, false), Err(AuthorityError::Cluster(_))), "{name}");
        }
        assert!(matches!(init(dir.path(), "blue", 0, false), Err(AuthorityError::Days(0))));
        let other = tempfile::tempdir().unwrap();
        init(dir.path(), "blue", 30, false).unwrap();
        init(other.path(), "blue", 30, false).unwrap();
        fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
        let error = issue(dir.path(), 0, dir.path(), 30, false).unwrap_err().to_string();
        assert!(error.contains("ca.key") && error.contains("not of one authority"), "{error}");
    }
}
