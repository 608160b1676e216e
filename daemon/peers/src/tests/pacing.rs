//! Bulk over a link with a deep queue: it keeps the queue short, demand does not have to.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::thread::JoinHandle;

use super::*;

/// Speed of the link, and the longest wait in its queue: 500 packets.
const BYTES_PER_S: f64 = 6e6;
const QUEUE_MAX: Duration = Duration::from_millis(120);
/// Rows of a transfer of 6 MB.
const TRANSFER_ROWS: u64 = 150_000;
/// Datagrams after which a transfer has begun.
const BEGUN: usize = 50;

/// Datagrams between a client and a server; those to the client go through a queue.
struct Link {
    address: String,
    /// How long each datagram had to wait.
    waits: Arc<Mutex<Vec<Duration>>>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    fn to(server: &str) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        back.connect(server).unwrap();
        let address = front.local_addr().unwrap().to_string();
        let (waits, ends) = (Arc::<Mutex<Vec<Duration>>>::default(), Arc::<AtomicBool>::default());
        let client = Arc::new(Mutex::new(None));
        let forth = {
            let (front, back, ends, client) = (front.clone(), back.clone(), ends.clone(), client.clone());
            move || {
                front.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                let mut datagram = [0; 2048];
                while !ends.load(Ordering::Relaxed) {
                    if let Ok((bytes, from)) = front.recv_from(&mut datagram) {
                        *client.lock().unwrap() = Some(from);
                        let _ = back.send(&datagram[..bytes]);
                    }
                }
            }
        };
        let there_and_back = {
            let (waits, ends) = (waits.clone(), ends.clone());
            move || queue(&front, &back, &client, &waits, &ends)
        };
        let threads = vec![std::thread::spawn(forth), std::thread::spawn(there_and_back)];
        Self { address, waits, ends, threads }
    }

    /// The mean wait of the datagrams after the first third, in ms; it begins again.
    fn mean_wait_ms(&self) -> f64 {
        let waits = std::mem::take(&mut *self.waits.lock().unwrap());
        let late = &waits[waits.len() / 3..];
        late.iter().map(|wait| wait.as_secs_f64() * 1e3).sum::<f64>() / late.len() as f64
    }
}

/// Takes datagrams from `back` to the client, at the speed of the link.
fn queue(
    front: &UdpSocket,
    back: &UdpSocket,
    client: &Mutex<Option<SocketAddr>>,
    waits: &Mutex<Vec<Duration>>,
    ends: &AtomicBool,
) {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut free = Instant::now();
    let mut datagram = [0; 2048];
    while !ends.load(Ordering::Relaxed) {
        let now = Instant::now();
        while let Some((due, bytes)) = waiting.front().filter(|(due, _)| *due <= now) {
            let _ = due;
            if let Some(client) = *client.lock().unwrap() {
                let _ = front.send_to(bytes, client);
            }
            waiting.pop_front();
        }
        let next = waiting.front().map_or(Duration::from_millis(20), |(due, _)| due.saturating_duration_since(now));
        back.set_read_timeout(Some(next.max(Duration::from_micros(50)))).unwrap();
        let Ok(bytes) = back.recv(&mut datagram) else { continue };
        let now = Instant::now();
        let due = free.max(now) + Duration::from_secs_f64(bytes as f64 / BYTES_PER_S);
        if due - now <= QUEUE_MAX {
            free = due;
            waits.lock().unwrap().push(due - now);
            waiting.push_back((due, datagram[..bytes].to_vec()));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// The mean wait, in ms, of the datagrams of a transfer of `class`, from a server with this `bulk_queue_ms`.
async fn wait_of(class: Class, bulk_queue_ms: u64) -> f64 {
    let dir = authority();
    let config = PeersConfig { bulk_queue_ms, request_timeout_ms: 60_000, ..config(dir.path(), 1) };
    let server = Peers::start(&config, identity(1), source(1)).unwrap();
    let link = Link::to(&server.local_addr().to_string());
    let peers = client(dir.path(), &link.address, |config| config.request_timeout_ms = 60_000);
    let ids: Vec<u64> = (0..TRANSFER_ROWS).map(|i| i * 4 + 1).collect();
    check(&peers.fetch(1, 0, ROW_BYTES, &ids, class).await.unwrap(), &ids);
    link.mean_wait_ms()
}

/// What others send over a link waits as long as these datagrams do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_keeps_the_queue_of_a_link_short_and_demand_does_not_have_to() {
    let bulk = wait_of(Class::Bulk, 5).await;
    let demand = wait_of(Class::Demand, 5).await;
    let unbounded = wait_of(Class::Bulk, 0).await;
    assert!(
        bulk * 2.5 < demand && bulk * 2.5 < unbounded,
        "bulk {bulk} ms, demand {demand}, without limit {unbounded}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demand_overtakes_a_bulk_answer_that_has_begun() {
    let dir = authority();
    let config = PeersConfig { request_timeout_ms: 60_000, ..config(dir.path(), 1) };
    let server = Peers::start(&config, identity(1), source(1)).unwrap();
    let link = Link::to(&server.local_addr().to_string());
    let peers = client(dir.path(), &link.address, |config| config.request_timeout_ms = 60_000);
    fetch(&peers, &[1]).await.unwrap();
    let before = link.waits.lock().unwrap().len();
    // One request: all of it waits to be sent when the demand arrives.
    let ids: Vec<u64> = (0..65_000).map(|i| i * 4 + 1).collect();
    let bulk = {
        let peers = Arc::clone(&peers);
        tokio::spawn(async move { peers.fetch(1, 0, ROW_BYTES, &ids, Class::Bulk).await.map(|batch| batch.len()) })
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while link.waits.lock().unwrap().len() < before + BEGUN {
        assert!(Instant::now() < deadline, "bulk does not begin");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    check(&fetch(&peers, &[5, 9]).await.unwrap(), &[5, 9]);
    assert!(!bulk.is_finished(), "two rows that a trainer waits for came after 65,000 that nobody waits for");
    assert_eq!(bulk.await.unwrap().unwrap(), 65_000);
}
