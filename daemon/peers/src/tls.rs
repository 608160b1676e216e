//! Who is who: the one TLS provider, the certificate files, and the node that a certificate names. Owns every rustls
//! setting of the peers; it must never believe a public root or a peer without a certificate.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::authority::{AuthorityError, make_authority, make_node};
use super::error::PeerError;
use crate::settings::PeersConfig;

/// Name of the protocol in the TLS handshake. It carries no version: versions are compared in the Hello, where a
/// difference can be told in words.
const ALPN: &[u8] = b"rudder-peer";
const DOMAIN: &str = "rudder";

/// Days of the certificate of a node without peers: nobody ever sees it.
const ALONE_DAYS: u32 = 36_500;

/// Makes aws-lc-rs the TLS provider of the process. To be called first thing in `main`: with two providers compiled in
/// and none installed, the first builder of a TLS configuration panics.
pub fn install_tls_provider() {
    let provider = aws_lc_rs::default_provider();
    // For the first random number of a process aws-lc gathers entropy, in 40 ms of processor time (measured): now, or
    // in the first handshake with a peer, while a trainer waits. An error will show there, too.
    let _ = provider.secure_random.fill(&mut [0; 32]);
    // An error says that a provider is installed already, which is what is wanted.
    let _ = provider.install_default();
}

/// AES-128-GCM first: the cheapest cipher for the row path that QUIC requires everybody to have.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// The name of a node in its certificate: `node-3.<cluster>.rudder`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName {
    /// Index of the node.
    pub node: u16,
    /// Name of the cluster.
    pub cluster: String,
}

impl fmt::Display for NodeName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "node-{}.{}.{DOMAIN}", self.node, self.cluster)
    }
}

impl NodeName {
    fn parse(name: &str) -> Option<Self> {
        let (node, rest) = name.strip_prefix("node-")?.split_once('.')?;
        let cluster = rest.strip_suffix(DOMAIN)?.strip_suffix('.')?;
        let parsed = Self { node: node.parse().ok()?, cluster: cluster.to_owned() };
        // Only the one spelling: no leading zeros, no sign, no empty cluster.
        (!cluster.is_empty() && parsed.to_string() == name).then_some(parsed)
    }

    /// The node that a certificate names, if it names exactly one.
    #[must_use]
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        let mut names = certificate.valid_dns_names().filter_map(Self::parse);
        names.next().filter(|_| names.next().is_none())
    }

    /// The node that the other end of a connection proved to be.
    pub(crate) fn of_connection(connection: &quinn::Connection) -> Option<Self> {
        let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        Self::of_certificate(chain.first()?)
    }
}

/// The identity that this node shows to its peers, and the authority that it trusts.
pub(crate) struct Credentials {
    pub(crate) name: NodeName,
    pub(crate) ends: Ends,
    pub(crate) client: ClientConfig,
    pub(crate) server: ServerConfig,
}

/// When certificates end, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The node's own.
    pub(crate) node: i64,
    /// The first of its authority's to end.
    pub(crate) authority: i64,
}

/// From when until when a certificate is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

impl Validity {
    /// Reads it off a certificate; `None` if that is not an X.509 certificate.
    #[must_use]
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "a method of yasna's reader has one lifetime where a closure for any is asked"
    )]
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        yasna::parse_der(certificate, |reader| {
            reader.read_sequence(|signed| {
                let validity = signed.next().read_sequence(|fields| {
                    // Before it stand version, serial number, algorithm and issuer (RFC 5280, section 4.1); version may
                    // be absent.
                    fields.read_optional(|version| version.read_tagged(yasna::Tag::context(0), |v| v.read_u8()))?;
                    for _ in 0..3 {
                        fields.next().read_der()?;
                    }
                    let validity = fields.next().read_sequence(|times| {
                        Ok(Self { not_before: time(times.next())?, not_after: time(times.next())? })
                    })?;
                    while fields.read_optional(|rest| rest.read_der())?.is_some() {}
                    Ok(validity)
                })?;
                while signed.read_optional(|rest| rest.read_der())?.is_some() {}
                Ok(validity)
            })
        })
        .ok()
    }
}

/// Reads a time in either of the forms that a certificate may have.
fn time(reader: yasna::BERReader<'_, '_>) -> yasna::ASN1Result<i64> {
    Ok(match reader.lookahead_tag()? {
        yasna::tags::TAG_UTCTIME => reader.read_utctime()?.datetime().unix_timestamp(),
        _ => reader.read_generalized_time()?.datetime().unix_timestamp(),
    })
}

/// The first end among `certificates`.
fn first_end(certificates: &[CertificateDer<'_>]) -> Option<i64> {
    let end = |certificate: &CertificateDer<'_>| Some(Validity::of_certificate(certificate)?.not_after);
    certificates.iter().filter_map(end).min()
}

impl Credentials {
    /// Reads the files of `config` and makes both TLS configurations of them.
    pub(crate) fn load(config: &PeersConfig, node: u16) -> Result<Self, PeerError> {
        let trusted = certificates(&config.authority)?;
        let chain = certificates(&config.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|error| unreadable(&config.key, &error))?;
        Self::build((trusted, &config.authority), (chain, &config.certificate), key, node)
    }

    /// Those of a node without peers: of an authority that nobody else has, in no file.
    pub(crate) fn alone(node: u16) -> Result<Self, PeerError> {
        let nowhere = Path::new("in memory");
        let failed = |problem: String| PeerError::Credentials { path: nowhere.to_owned(), problem };
        let made = |error: AuthorityError| failed(error.to_string());
        let authority = make_authority("alone", ALONE_DAYS).map_err(made)?;
        let (ca, key) = ((&*authority.certificate, nowhere), (&*authority.key, nowhere));
        let own = make_node(ca, key, node, ALONE_DAYS).map_err(made)?;
        let read =
            |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| failed(error.to_string()));
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(|error| failed(error.to_string()))?;
        Self::build((vec![read(&authority.certificate)?], nowhere), (vec![read(&own.certificate)?], nowhere), key, node)
    }

    /// Makes both TLS configurations; errors name the paths.
    fn build(
        (trusted, authority_path): (Vec<CertificateDer<'static>>, &Path),
        (chain, path): (Vec<CertificateDer<'static>>, &Path),
        key: PrivateKeyDer<'static>,
        node: u16,
    ) -> Result<Self, PeerError> {
        let ends = Ends {
            node: first_end(chain.get(..1).unwrap_or_default()).unwrap_or(i64::MAX),
            authority: first_end(&trusted).unwrap_or(i64::MAX),
        };
        let roots = Arc::new(authority(trusted, authority_path)?);
        let unusable = |problem: String| PeerError::Credentials { path: path.to_owned(), problem };
        let name = chain.first().and_then(NodeName::of_certificate).ok_or_else(|| {
            unusable("names no node of a cluster; issue it with rudder certs issue --node".to_owned())
        })?;
        if name.node != node {
            let problem = format!("is for node {}, but node.index is {node}; use node {node}'s certificate", name.node);
            return Err(unusable(problem));
        }
        let tls = |error: rustls::Error| unusable(format!("does not fit key or authority: {error}"));
        let provider = provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| PeerError::Credentials { path: authority_path.to_owned(), problem: error.to_string() })?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(tls)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(tls)?;
        // Every connection proves both certificates again: no tickets, no early data.
        server.send_tls13_tickets = 0;
        client.resumption = rustls::client::Resumption::disabled();
        server.alpn_protocols = vec![ALPN.to_vec()];
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { name, ends, client, server })
    }
}

/// The two TLS configurations of node `node`, to dial and to answer with, for other protocols between the same nodes.
///
/// # Errors
/// When a certificate file cannot be used.
pub fn tls_configs(config: &PeersConfig, node: u16) -> Result<(ClientConfig, ServerConfig), PeerError> {
    let credentials = Credentials::load(config, node)?;
    Ok((credentials.client, credentials.server))
}

fn authority(trusted: Vec<CertificateDer<'static>>, path: &Path) -> Result<RootCertStore, PeerError> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        let problem = |error| format!("holds no usable authority certificate: {error}");
        roots
            .add(certificate)
            .map_err(|error| PeerError::Credentials { path: path.to_owned(), problem: problem(error) })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PeerError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if chain.is_empty() => {
            let problem = "holds no certificate in PEM form; make one with rudder certs".to_owned();
            Err(PeerError::Credentials { path: path.to_owned(), problem })
        }
        Ok(chain) => Ok(chain),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &rustls::pki_types::pem::Error) -> PeerError {
    let problem = format!("cannot be read as PEM: {error}; make it with rudder certs init and rudder certs issue");
    PeerError::Credentials { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_have_one_spelling() {
        let name = NodeName { node: 12, cluster: "blue".to_owned() };
        assert_eq!(NodeName::parse(&name.to_string()), Some(name));
        for wrong in
            ["node-012.blue.rudder", "node-.blue.rudder", "node-1.rudder", "node-1..rudder", "node-70000.b.rudder"]
        {
            assert_eq!(NodeName::parse(wrong), None, "{wrong}");
        }
    }
}
