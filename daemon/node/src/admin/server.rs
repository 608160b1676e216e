//! Connections: how many, how long, and how they end. `axum::serve` has no time-out for the head of a request, no limit
//! on connections and no deadline for its drain, so connections are served by hyper directly.

use super::{AdminConfig, AdminError, Metrics, calls::Calls, local::Local, routes, token::Token};
use crate::daemon::Life;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rudder_telemetry::logging::Logging;
use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// Pause after a failed accept (no descriptors left, usually), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running HTTP interface. Dropping it stops it at once; [`Admin::shutdown`] lets answers in progress end.
#[derive(Debug)]
pub struct Admin {
    local_addr: SocketAddr,
    stop: CancellationToken,
    accepting: JoinHandle<JoinSet<()>>,
}

impl Admin {
    /// Listens on `admin.listen` and answers from then on. Called inside a tokio runtime.
    ///
    /// # Errors
    /// If the address is taken or cannot be listened on, or the token file is not usable.
    pub async fn start(
        config: &AdminConfig,
        life: Arc<Life>,
        logging: Logging,
        metrics: Metrics,
    ) -> Result<Self, AdminError> {
        let token = config.token_file.as_deref().map(Token::read).transpose()?.map(Arc::new);
        let address = config.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => AdminError::InUse { address },
            _ => AdminError::Bind { address, source },
        })?;
        let local_addr = listener.local_addr().map_err(|source| AdminError::Bind { address, source })?;
        if !local_addr.ip().is_loopback() && token.is_none() {
            tracing::warn!(%local_addr, "the admin interface is open to the network without a token (admin.token_file)");
        }
        let request_timeout = Duration::from_millis(config.request_timeout_ms);
        let calls = Calls::new(Arc::clone(&life), config.tool_calls_max);
        let access = match token {
            Some(token) => routes::Access::Token(token),
            None => routes::Access::Local(Arc::new(Local::new(local_addr.ip()))),
        };
        let router = routes::router(routes::AdminContext { life, calls, logging, metrics, access, request_timeout });
        let stop = CancellationToken::new();
        let limits = Limits {
            header_timeout: Duration::from_millis(config.header_timeout_ms),
            unread_timeout_ms: u32::try_from(config.request_timeout_ms).unwrap_or(u32::MAX),
            connections_max: config.connections_max,
        };
        let accepting = tokio::spawn(accept(listener, router, limits, stop.clone()));
        tracing::info!(%local_addr, "the admin interface answers");
        Ok(Self { local_addr, stop, accepting })
    }

    /// The address it listens on: `admin.listen`, with the port that was chosen if that was 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Takes no more connections, lets answers in progress end, and cuts what is left after `deadline`.
    pub async fn shutdown(mut self, deadline: Duration) {
        self.stop.cancel();
        let drained = async {
            if let Ok(mut connections) = (&mut self.accepting).await {
                while connections.join_next().await.is_some() {}
            }
        };
        if tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::warn!(deadline_ms = deadline.as_millis(), "admin connections were cut at the deadline");
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Clone, Copy)]
struct Limits {
    header_timeout: Duration,
    unread_timeout_ms: u32,
    connections_max: usize,
}

/// Accepts until told to stop; gives back the connections still open. Aborting the task ends them all.
async fn accept(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) -> JoinSet<()> {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        // A place first: further callers wait in the listen queue of the kernel.
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = stop.cancelled() => return connections,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = serve(stream, router.clone(), limits, stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin interface cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, router: Router, limits: Limits, stop: CancellationToken) {
    // A caller that does not read its answer is cut by the kernel; without this its connection would stay for ever.
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, limits.unread_timeout_ms) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT cannot be set");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection ended early");
    }
}
