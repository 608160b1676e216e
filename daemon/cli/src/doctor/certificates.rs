//! The certificates of a node: are they readable, do they fit together, whom do they name, and for how long. Owns the
//! rules of their age. A function of the files' bytes and of the time; it must never show a key.

use crate::finding::Finding;
use crate::style::span;
use rudder_peers::{NodeName, PeersConfig, Validity};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A certificate that ends in fewer days is warned about, unless most of its life is still before it: those of a job
/// live a day.
const DAYS_LEFT_MIN: f64 = 21.0;
const LIFE_LEFT_MIN: f64 = 0.33;
const DAY: f64 = 86_400.0;
/// Rights to the key's file that nobody but its owner needs: any of others', and a group's to write. The group may
/// read, since that is how a daemon that is not root reads a key that root owns (docs/deploy.md).
const MODE_OTHERS: u32 = 0o007;
const MODE_GROUP_WRITES: u32 = 0o020;

/// What was read of one file.
type Read = io::Result<Vec<u8>>;

/// The three files.
#[derive(Debug)]
pub(super) struct Files {
    authority: Read,
    certificate: Read,
    key: Read,
    /// Permission bits of the key's file.
    key_mode: Option<u32>,
}

impl Files {
    pub(super) fn read(config: &PeersConfig) -> Self {
        Self {
            authority: std::fs::read(&config.authority),
            certificate: std::fs::read(&config.certificate),
            key: std::fs::read(&config.key),
            key_mode: std::fs::metadata(&config.key).ok().map(|data| data.permissions().mode() & 0o777),
        }
    }
}

/// Whether node `node` can prove who it is at `now`, in seconds since 1970.
pub(super) fn judge(files: &Files, config: &PeersConfig, node: u16, now: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let authority =
        chain(&mut found, "authority", &files.authority, &config.authority, "the same ca.pem for all nodes");
    let issue = format!("rudder certs issue --authority DIR --node {node}");
    let certificate = chain(&mut found, "certificate", &files.certificate, &config.certificate, &issue);
    let key = key(&mut found, files, &config.key, &issue);
    if let Some(authority) = &authority {
        found.extend(age(
            "authority",
            authority,
            &config.authority,
            now,
            "rudder certs init, then issue the certificates of all nodes again",
        ));
    }
    let Some(certificate) = certificate else { return found };
    found.extend(age("certificate", &certificate, &config.certificate, now, &issue));
    found.push(name(&certificate, node, &issue));
    if let Some(key) = key {
        found.push(pair(&certificate, &key, config, &issue));
    }
    if let Some(authority) = authority {
        found.extend(trust(&certificate, authority, config, now, &issue));
    }
    found
}

/// The first certificate of a file.
fn chain(
    found: &mut Vec<Finding>,
    name: &str,
    read: &Read,
    path: &Path,
    mend: &str,
) -> Option<CertificateDer<'static>> {
    let pem = readable(found, name, read, path, mend)?;
    match CertificateDer::pem_slice_iter(pem).next() {
        Some(Ok(certificate)) => Some(certificate),
        _ => {
            let said = format!("{} holds no certificate in PEM form", path.display());
            found.push(Finding::problem(name, said, mend));
            None
        }
    }
}

fn key(found: &mut Vec<Finding>, files: &Files, path: &Path, mend: &str) -> Option<PrivateKeyDer<'static>> {
    let pem = readable(found, "key", &files.key, path, mend)?;
    if let Some(mode) = files.key_mode.filter(|mode| mode & (MODE_OTHERS | MODE_GROUP_WRITES) != 0) {
        let who = if mode & MODE_OTHERS != 0 { "is open to every user" } else { "may be written by its group" };
        let said = format!("{} {who} (mode {mode:04o})", path.display());
        found.push(Finding::warning("key", said, format!("chmod o-rwx,g-w {}", path.display())));
    }
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Some(key),
        Err(_) => {
            found.push(Finding::problem("key", format!("{} holds no key in PEM form", path.display()), mend));
            None
        }
    }
}

fn readable<'a>(found: &mut Vec<Finding>, name: &str, read: &'a Read, path: &Path, mend: &str) -> Option<&'a [u8]> {
    match read {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let mend = match error.kind() {
                io::ErrorKind::PermissionDenied => "let the daemon's user read it, or run this as that user".to_owned(),
                _ => format!("put it there ({mend}), or correct peers.{name}"),
            };
            found.push(Finding::problem(name, format!("{}: {error}", path.display()), mend));
            None
        }
    }
}

/// Whether a certificate is valid now, and stays so for a while.
fn age(name: &str, certificate: &CertificateDer<'_>, path: &Path, now: u64, mend: &str) -> Option<Finding> {
    let validity = Validity::of_certificate(certificate)?;
    let (from, until) = (validity.not_before as f64, validity.not_after as f64);
    let now = now as f64;
    let path = path.display();
    Some(if now < from {
        let said = format!("{path} is not valid before {} from now: is this node's clock behind?", span(from - now));
        Finding::problem(name, said, "see to the clock (chronyc tracking, timedatectl)")
    } else if now >= until {
        Finding::problem(
            name,
            format!("{path} ended {} ago", span(now - until)),
            format!("{mend} --force, and restart rudderd"),
        )
    } else if (until - now) / DAY < DAYS_LEFT_MIN && (until - now) / (until - from) < LIFE_LEFT_MIN {
        let said = format!("{path} ends in {}", span(until - now));
        Finding::warning(name, said, format!("{mend} --force, and restart rudderd before then"))
    } else {
        Finding::ok(name, format!("{path}, valid for another {}", span(until - now)))
    })
}

fn name(certificate: &CertificateDer<'_>, node: u16, mend: &str) -> Finding {
    match NodeName::of_certificate(certificate) {
        None => Finding::problem("node name", "the certificate names no node of a cluster", mend),
        Some(name) if name.node != node => {
            let said = format!("the certificate is for node {}, but node.index is {node}", name.node);
            Finding::problem("node name", said, format!("use node {node}'s certificate, or correct node.index"))
        }
        Some(name) => Finding::ok("node name", name.to_string()),
    }
}

fn pair(
    certificate: &CertificateDer<'static>,
    key: &PrivateKeyDer<'static>,
    config: &PeersConfig,
    mend: &str,
) -> Finding {
    let provider = aws_lc_rs::default_provider();
    let pair = CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), &provider);
    match pair {
        Ok(_) => Finding::ok("key", format!("{} belongs to the certificate", config.key.display())),
        Err(error) => {
            let said = format!("{} does not belong to {}: {error}", config.key.display(), config.certificate.display());
            Finding::problem(
                "key",
                said,
                format!("use the pair that was issued together; {mend} --force makes a new one"),
            )
        }
    }
}

/// Whether the peers, who know the authority alone, would believe the certificate. Its age is judged elsewhere.
fn trust(
    certificate: &CertificateDer<'static>,
    authority: CertificateDer<'static>,
    config: &PeersConfig,
    now: u64,
    mend: &str,
) -> Option<Finding> {
    let name = ServerName::try_from(NodeName::of_certificate(certificate)?.to_string()).ok()?;
    let mut roots = rustls::RootCertStore::empty();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verified = roots.add(authority).and_then(|()| {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        verifier.verify_server_cert(certificate, &[], &name, &[], now)
    });
    use rustls::CertificateError as E;
    match verified {
        Ok(_) => Some(Finding::ok("chain", format!("signed by {}", config.authority.display()))),
        Err(rustls::Error::InvalidCertificate(
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. },
        )) => None,
        Err(error) => {
            let said = format!("{} is not of {}: {error}", config.certificate.display(), config.authority.display());
            Some(Finding::problem("chain", said, format!("all nodes need certificates of the same authority: {mend}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Severity, worst};
    use rudder_peers::authority;
    use std::time::{SystemTime, UNIX_EPOCH};

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    /// An authority and node 3's certificate, valid for this many days.
    fn site(days: u32) -> (tempfile::TempDir, PeersConfig) {
        let dir = tempfile::tempdir().unwrap();
        authority::init(dir.path(), "blue", 3650, false).unwrap();
        authority::issue(dir.path(), 3, dir.path(), days, false).unwrap();
        let config = PeersConfig {
            authority: dir.path().join("ca.pem"),
            certificate: dir.path().join("node-3.pem"),
            key: dir.path().join("node-3.key"),
            ..PeersConfig::default()
        };
        (dir, config)
    }

    fn judged(config: &PeersConfig, node: u16, now: u64) -> (Severity, String) {
        let found = judge(&Files::read(config), config, node, now);
        let bad: Vec<String> = found
            .iter()
            .filter(|finding| finding.verdict != Severity::Ok)
            .map(|finding| format!("{}: {} -> {}", finding.check, finding.found, finding.mend.clone().unwrap()))
            .collect();
        (worst(&found), bad.join("\n"))
    }

    #[test]
    fn a_good_pair_passes_and_a_day_old_job_is_no_warning() {
        let (_dir, config) = site(365);
        let found = judge(&Files::read(&config), &config, 3, now());
        assert_eq!(worst(&found), Severity::Ok, "{found:?}");
        assert_eq!(found.len(), 5, "authority, certificate, name, key, chain: {found:?}");
        assert!(found.iter().any(|finding| finding.found == "node-3.blue.rudder"));
        let (_dir, config) = site(1);
        assert_eq!(judged(&config, 3, now()).0, Severity::Ok);
    }

    #[test]
    fn ages_are_told() {
        let (_dir, config) = site(365);
        // A minute over, so that a second lost in between changes no hour.
        let (day, later) = (86_400, now() + 60);
        let (verdict, text) = judged(&config, 3, later + 350 * day);
        assert!(verdict == Severity::Warning && text.contains("ends in 14 d 23 h"), "{text}");
        let (verdict, text) = judged(&config, 3, later + 366 * day);
        assert!(
            verdict == Severity::Problem && text.contains("ended 1 d 0 h ago") && text.contains("--force"),
            "{text}"
        );
        let (verdict, text) = judged(&config, 3, later - 2 * day);
        assert!(verdict == Severity::Problem && text.contains("clock"), "{text}");
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        let (dir, config) = site(365);
        assert!(judged(&config, 2, now()).1.contains("is for node 3, but node.index is 2"));
        let (other, others) = site(365);
        let mixed = PeersConfig { authority: others.authority.clone(), ..config.clone() };
        assert!(judged(&mixed, 3, now()).1.contains("chain: "), "{}", judged(&mixed, 3, now()).1);
        let mixed = PeersConfig { key: others.key, ..config.clone() };
        assert!(judged(&mixed, 3, now()).1.contains("does not belong to"), "{}", judged(&mixed, 3, now()).1);
        let mixed = PeersConfig { certificate: config.authority.clone(), ..config.clone() };
        assert!(judged(&mixed, 3, now()).1.contains("names no node"), "{}", judged(&mixed, 3, now()).1);
        drop((dir, other));
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let (dir, config) = site(365);
        for (mode, words) in [(0o644, "is open to every user (mode 0644)"), (0o660, "may be written by its group")] {
            std::fs::set_permissions(&config.key, std::fs::Permissions::from_mode(mode)).unwrap();
            let (verdict, text) = judged(&config, 3, now());
            let mended = text.contains("chmod o-rwx,g-w");
            assert!(verdict == Severity::Warning && text.contains(words) && mended, "{mode:o}: {text}");
        }
        // What docs/deploy.md has an operator do.
        std::fs::set_permissions(&config.key, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(judged(&config, 3, now()), (Severity::Ok, String::new()));
        std::fs::write(&config.key, "nonsense").unwrap();
        assert!(judged(&config, 3, now()).1.contains("holds no key"));
        std::fs::write(&config.certificate, "nonsense").unwrap();
        assert!(judged(&config, 3, now()).1.contains("certificate: "));
        std::fs::remove_file(&config.authority).unwrap();
        let (verdict, text) = judged(&config, 3, now());
        assert!(
            verdict == Severity::Problem && text.contains("ca.pem: No such file") && text.contains("peers.authority"),
            "{text}"
        );
        let denied = Files {
            authority: Err(io::ErrorKind::PermissionDenied.into()),
            certificate: Err(io::ErrorKind::NotFound.into()),
            key: Err(io::ErrorKind::NotFound.into()),
            key_mode: None,
        };
        assert!(judge(&denied, &config, 3, 0)[0].mend.as_ref().unwrap().contains("daemon's user"));
        drop(dir);
    }
}
