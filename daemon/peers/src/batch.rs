//! Larger sends than quinn makes: it hands the kernel ten packets a call, this socket joins what one poll of a
//! connection produces into one call of up to 32 KiB, which the other end receives in one piece, too. Owns packets for
//! no longer than that poll; it must never reorder them, nor keep one when its connection has no more to send.
//!
//! Nothing in quinn says that a connection is done sending for now, but its driver polls its timer at the end of each
//! poll, and does so through the [`Runtime`]: the timer made here sends what was joined. A driver that stopped at its
//! own limit of packets is polled again at once, so its packets wait for the next ones.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

/// Largest joined send. The kernel would take 64 KiB. But a shaper of traffic cuts what is larger than its bucket
/// (50 kB at 1 Gbit/s, say) into packets, each of which then goes the whole way to the receiving socket alone.
const BATCH_BYTES_MAX: usize = 32 << 10;
/// Packets after which quinn's driver ends a poll to be polled again at once.
const DRIVER_PACKETS_MAX: usize = 20;

/// A UDP socket that joins consecutive packets to one destination.
#[derive(Debug)]
pub(crate) struct BatchingSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    batch: Mutex<Burst>,
}

/// Packets not yet handed to the kernel: all of `segment` bytes, the last possibly less.
#[derive(Debug, Default)]
struct Burst {
    bytes: Vec<u8>,
    to: Option<Destination>,
    segment: usize,
    /// Packets added since the last timer poll of any connection.
    added: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Destination {
    address: SocketAddr,
    source: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
}

impl Burst {
    /// Whether `transmit` may follow what is there in one send.
    fn takes(&self, transmit: &Transmit<'_>, to: Destination, segments_max: usize) -> bool {
        let bytes = self.bytes.len() + transmit.contents.len();
        self.to == Some(to)
            && self.bytes.len().is_multiple_of(self.segment)
            && transmit.segment_size.unwrap_or(self.segment) == self.segment
            && (transmit.segment_size.is_some() || transmit.contents.len() <= self.segment)
            && bytes <= BATCH_BYTES_MAX
            && bytes.div_ceil(self.segment) <= segments_max
    }

    fn send(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        let Some(to) = self.to else { return Ok(()) };
        socket.try_send(&Transmit {
            destination: to.address,
            ecn: to.ecn,
            contents: &self.bytes,
            segment_size: (self.bytes.len() > self.segment).then_some(self.segment),
            src_ip: to.source,
        })?;
        self.bytes.clear();
        self.to = None;
        Ok(())
    }
}

impl BatchingSocket {
    /// `socket` on the tokio runtime that this is called in.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { inner: TokioRuntime.wrap_udp_socket(socket)?, batch: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Burst> {
        self.batch.lock()
    }

    /// Sends what was joined, unless the driver that joined it is about to go on.
    fn end_of_poll(&self) -> io::Result<()> {
        let mut batch = self.lock();
        if std::mem::take(&mut batch.added) >= DRIVER_PACKETS_MAX { Ok(()) } else { batch.send(&*self.inner) }
    }
}

impl AsyncUdpSocket for BatchingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let to = Destination { address: transmit.destination, source: transmit.src_ip, ecn: transmit.ecn };
        let mut batch = self.lock();
        if !batch.takes(transmit, to, self.inner.max_transmit_segments()) {
            batch.send(&*self.inner)?;
        }
        let segment = match (batch.to, transmit.segment_size) {
            (Some(_), _) => batch.segment,
            // A lone packet, mostly an acknowledgement, has nothing to wait for.
            (None, None) => return self.inner.try_send(transmit),
            (None, Some(segment)) if transmit.contents.len() + segment > BATCH_BYTES_MAX => {
                return self.inner.try_send(transmit);
            }
            (None, Some(segment)) => segment,
        };
        batch.to = Some(to);
        batch.segment = segment;
        batch.bytes.extend_from_slice(transmit.contents);
        batch.added += transmit.contents.len().div_ceil(segment);
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(context, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Tokio, with timers that end a connection's poll by sending what it joined.
#[derive(Debug)]
pub(crate) struct BatchingRuntime(pub(crate) Arc<BatchingSocket>);

impl Runtime for BatchingRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let writable = Arc::clone(&self.0).create_io_poller();
        Box::pin(SendingTimer { timer: TokioRuntime.new_timer(at), socket: Arc::clone(&self.0), writable })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

#[derive(Debug)]
struct SendingTimer {
    timer: Pin<Box<dyn AsyncTimer>>,
    socket: Arc<BatchingSocket>,
    writable: Pin<Box<dyn UdpPoller>>,
}

impl AsyncTimer for SendingTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.timer.as_mut().reset(at);
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // The socket's errors other than a full kernel buffer never get here: quinn's own socket logs and drops them.
        while self.socket.end_of_poll().is_err() {
            if self.writable.as_mut().poll_writable(context).is_pending() {
                break;
            }
        }
        self.timer.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Destination, segment size and bytes of one send.
    type Sent = (SocketAddr, Option<usize>, Vec<u8>);

    /// Records what reaches the kernel, or is full.
    #[derive(Debug, Default)]
    struct Kernel {
        sent: Mutex<Vec<Sent>>,
        full: std::sync::atomic::AtomicBool,
    }

    impl AsyncUdpSocket for Kernel {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("the tests poll nothing")
        }
        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            if self.full.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let sent = (transmit.destination, transmit.segment_size, transmit.contents.to_vec());
            self.sent.lock().push(sent);
            Ok(())
        }
        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(address(0))
        }
        fn max_transmit_segments(&self) -> usize {
            64
        }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn transmit(port: u16, segment_size: Option<usize>, contents: &[u8]) -> Transmit<'_> {
        Transmit { destination: address(port), ecn: None, contents, segment_size, src_ip: None }
    }

    fn setup() -> (Arc<Kernel>, BatchingSocket) {
        let kernel = Arc::new(Kernel::default());
        (Arc::clone(&kernel), BatchingSocket { inner: kernel, batch: Mutex::default() })
    }

    fn sizes(kernel: &Kernel) -> Vec<(u16, Option<usize>, usize)> {
        kernel.sent.lock().iter().map(|(to, segment, bytes)| (to.port(), *segment, bytes.len())).collect()
    }

    #[test]
    fn packets_of_a_poll_go_out_together_and_in_order() {
        let (kernel, socket) = setup();
        socket.try_send(&transmit(1, Some(100), &[1; 300])).unwrap();
        socket.try_send(&transmit(1, Some(100), &[2; 200])).unwrap();
        // A shorter last packet ends the batch.
        socket.try_send(&transmit(1, None, &[3; 40])).unwrap();
        assert_eq!(sizes(&kernel), []);
        socket.try_send(&transmit(1, Some(100), &[4; 200])).unwrap();
        assert_eq!(sizes(&kernel), [(1, Some(100), 540)]);
        socket.end_of_poll().unwrap();
        socket.end_of_poll().unwrap();
        assert_eq!(sizes(&kernel), [(1, Some(100), 540), (1, Some(100), 200)]);
        let sent = kernel.sent.lock();
        assert_eq!([sent[0].2[0], sent[0].2[300], sent[0].2[500], sent[1].2[0]], [1, 2, 3, 4]);
    }

    #[test]
    fn what_does_not_fit_together_is_sent_apart() {
        let (kernel, socket) = setup();
        socket.try_send(&transmit(1, None, &[0; 50])).unwrap();
        socket.try_send(&transmit(1, Some(100), &[0; 300])).unwrap();
        socket.try_send(&transmit(2, Some(100), &[0; 300])).unwrap();
        socket.try_send(&transmit(2, Some(90), &[0; 180])).unwrap();
        socket.try_send(&transmit(2, None, &[0; 91])).unwrap();
        let apart = [(1, None, 50), (1, Some(100), 300), (2, Some(100), 300), (2, Some(90), 180), (2, None, 91)];
        assert_eq!(sizes(&kernel), apart);
        // Neither 32 KiB nor the kernel's number of segments is passed by joining; what is larger waits for nothing.
        let (kernel, socket) = setup();
        for _ in 0..7 {
            socket.try_send(&transmit(1, Some(1_452), &[0; 14_520])).unwrap();
            socket.try_send(&transmit(2, Some(100), &[0; 6_000])).unwrap();
        }
        socket.try_send(&transmit(3, Some(6_500), &[0; 65_000])).unwrap();
        let joined = |to: &SocketAddr| to.port() < 3;
        assert!(kernel.sent.lock().iter().all(|(to, _, bytes)| !joined(to) || bytes.len() <= BATCH_BYTES_MAX));
        assert_eq!(sizes(&kernel).last(), Some(&(3, Some(6_500), 65_000)));
    }

    #[test]
    fn a_driver_that_goes_on_is_waited_for() {
        let (kernel, socket) = setup();
        socket.try_send(&transmit(1, Some(100), &[0; 2_000])).unwrap();
        socket.end_of_poll().unwrap();
        assert_eq!(sizes(&kernel), []);
        socket.try_send(&transmit(1, Some(100), &[0; 300])).unwrap();
        socket.end_of_poll().unwrap();
        assert_eq!(sizes(&kernel), [(1, Some(100), 2_300)]);
    }

    #[test]
    fn a_full_kernel_loses_nothing() {
        let (kernel, socket) = setup();
        socket.try_send(&transmit(1, Some(100), &[0; 200])).unwrap();
        kernel.full.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(socket.end_of_poll().is_err());
        // The other destination's packet stays with quinn, which tries again.
        assert!(socket.try_send(&transmit(2, Some(100), &[0; 200])).is_err());
        kernel.full.store(false, std::sync::atomic::Ordering::Relaxed);
        socket.try_send(&transmit(2, Some(100), &[0; 200])).unwrap();
        socket.end_of_poll().unwrap();
        assert_eq!(sizes(&kernel), [(1, Some(100), 200), (2, Some(100), 200)]);
    }
}
