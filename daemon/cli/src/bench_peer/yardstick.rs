//! The yardstick of the peers' benchmark: TLS over TCP by the same library, the same certificates and the same cipher,
//! one connection, from a buffer that is ready into a buffer that is reused. It must never do less than its best.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{ASKING_NODE, SERVING_NODE};
use crate::CliError;
use rudder_peers::settings::PeersConfig;
use rudder_peers::{NodeName, tls_configs};

/// Bytes handed to TLS at a time; also the most it keeps encrypted. Larger and smaller ones measured slower.
const WRITE_BYTES: usize = 256 << 10;

/// The receiving end.
pub(super) struct Yardstick {
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Yardstick {
    /// Connects; `buffer_bytes` as large as one fetch of the other side.
    pub(super) async fn connect(config: &PeersConfig, address: &str, buffer_bytes: usize) -> Result<Self, CliError> {
        let (client, _) = tls_configs(config, ASKING_NODE)?;
        let name = NodeName { node: SERVING_NODE, cluster: "bench".to_owned() };
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(client));
        let stream = connector.connect(ServerName::try_from(name.to_string())?, tcp).await?;
        Ok(Self { stream, buffer: vec![0; buffer_bytes] })
    }

    /// Asks for `bytes` and receives them, one buffer after the other.
    pub(super) async fn receive(&mut self, bytes: u64) -> Result<(), CliError> {
        self.stream.write_all(&bytes.to_le_bytes()).await?;
        self.stream.flush().await?;
        let mut left = bytes;
        while left > 0 {
            let n = left.min(self.buffer.len() as u64) as usize;
            self.stream.read_exact(&mut self.buffer[..n]).await?;
            left -= n as u64;
        }
        Ok(())
    }
}

/// Serves bytes in the background; the address.
pub(super) async fn listen(config: &PeersConfig) -> Result<SocketAddr, CliError> {
    let (_, server) = tls_configs(config, SERVING_NODE)?;
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(send(acceptor.clone(), tcp));
        }
    });
    Ok(address)
}

/// Sends the number of bytes that the other end asks for, repeatedly until it leaves.
async fn send(acceptor: TlsAcceptor, tcp: TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    stream.get_mut().1.set_buffer_limit(Some(WRITE_BYTES));
    let ready = vec![0x5a; WRITE_BYTES];
    let mut count = [0; 8];
    loop {
        stream.read_exact(&mut count).await?;
        let mut left = u64::from_le_bytes(count);
        while left > 0 {
            let n = left.min(ready.len() as u64) as usize;
            stream.write_all(&ready[..n]).await?;
            left -= n as u64;
        }
        stream.flush().await?;
    }
}
