//! The connections of a server: which there are, which wait for their clients, and which one makes room for the next.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::Notify;

use super::limits::Bounds;
use crate::sync::{Guard, Mutex, Rank};

/// Counts of connections, for the figures of the server.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) open: AtomicUsize,
    /// Closed to make room for another one.
    pub(super) displaced: AtomicU64,
    /// Closed as soon as they were accepted.
    pub(super) refused: AtomicU64,
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections {
    bounds: Bounds,
    counts: Arc<Counts>,
    begun: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: HashMap<u64, Arc<Connection>>,
}

/// What is known of a connection.
#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    /// When it last made progress, in milliseconds since the server began.
    progress: AtomicU64,
    /// Requests that the server is at work for.
    requests: AtomicUsize,
    /// Whether the client does not take what it is sent.
    is_stalled: AtomicBool,
    /// Whether the client was the last to send something.
    has_sent: AtomicBool,
    displaced: Notify,
}

impl Connection {
    fn waits_for_client(&self) -> bool {
        self.requests.load(Relaxed) == 0 || self.is_stalled.load(Relaxed)
    }
}

impl Connections {
    pub(super) fn new(bounds: Bounds, counts: Arc<Counts>) -> Self {
        Self { bounds, counts, begun: Instant::now(), open: Mutex::new(Rank::Connections, Open::default()) }
    }

    pub(super) const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Admits a connection of `peer`, for which another one may have to close. `None` if no other one can.
    pub(super) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        let peer = prefix(peer.ip());
        let mut open = self.open();
        let is_bounded = !(self.bounds.exempts_loopback && peer.is_loopback());
        let of_peer = |connection: &Connection| connection.peer == peer;
        let is_full_of_peer = is_bounded
            && open.by_number.values().filter(|other| of_peer(other)).count() >= self.bounds.per_peer;
        let is_full = open.by_number.len() >= self.bounds.connections;
        if is_full_of_peer || is_full {
            let has_made_room = open.displace(|other| !is_full_of_peer || of_peer(other));
            if !has_made_room {
                self.counts.refused.fetch_add(1, Relaxed);
                return None;
            }
            self.counts.displaced.fetch_add(1, Relaxed);
        }
        let number = open.next;
        open.next += 1;
        let connection = Arc::new(Connection {
            peer,
            progress: AtomicU64::new(self.now()),
            requests: AtomicUsize::new(0),
            is_stalled: AtomicBool::new(false),
            has_sent: AtomicBool::new(false),
            displaced: Notify::new(),
        });
        open.by_number.insert(number, Arc::clone(&connection));
        self.counts.open.store(open.by_number.len(), Relaxed);
        Some(Place { connections: Arc::clone(self), number, connection })
    }

    /// Closes the connection that has waited longest for its client. `false` if none waits.
    pub(super) fn displace(&self) -> bool {
        let mut open = self.open();
        let is_displaced = open.displace(|_| true);
        if is_displaced {
            self.counts.displaced.fetch_add(1, Relaxed);
            self.counts.open.store(open.by_number.len(), Relaxed);
        }
        is_displaced
    }

    /// Changed by one insertion or removal at a time.
    fn open(&self) -> Guard<'_, Open> {
        self.open.lock_or_recover()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Open {
    fn displace(&mut self, may_close: impl Fn(&Connection) -> bool) -> bool {
        let waiting = self.by_number.iter().filter(|(_, one)| one.waits_for_client() && may_close(one));
        // Numbers decide between those of one millisecond.
        let longest = waiting.min_by_key(|(number, one)| (one.progress.load(Relaxed), **number));
        let Some(number) = longest.map(|(number, _)| *number) else { return false };
        if let Some(connection) = self.by_number.remove(&number) {
            connection.displaced.notify_one();
        }
        true
    }
}

/// An admitted connection. It counts for as long as this lives, or until it is displaced.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    number: u64,
    connection: Arc<Connection>,
}

impl Place {
    /// Waits until the connection has to close for another one.
    pub(super) async fn displaced(&self) {
        self.connection.displaced.notified().await;
    }

    /// Notes that the client sent something.
    pub(super) fn received(&self) {
        self.connection.progress.store(self.connections.now(), Relaxed);
        self.connection.has_sent.store(true, Relaxed);
    }

    /// Notes that the client took something.
    pub(super) fn sent(&self) {
        self.connection.progress.store(self.connections.now(), Relaxed);
        self.connection.is_stalled.store(false, Relaxed);
        self.connection.has_sent.store(false, Relaxed);
    }

    /// Notes that the client does not take what it is sent.
    pub(super) fn stalled(&self) {
        self.connection.is_stalled.store(true, Relaxed);
    }

    /// Whether a part of a request has come, for which the server is not yet at work.
    pub(super) fn has_part_of_head(&self) -> bool {
        self.connection.requests.load(Relaxed) == 0 && self.connection.has_sent.load(Relaxed)
    }

    /// Notes that the server is at work for a request, until the returned value is dropped.
    pub(super) fn at_work(self: &Arc<Self>) -> AtWork {
        self.connection.requests.fetch_add(1, Relaxed);
        AtWork(Arc::clone(self))
    }

    pub(super) fn bounds(&self) -> &Bounds {
        self.connections.bounds()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.by_number.remove(&self.number);
        self.connections.counts.open.store(open.by_number.len(), Relaxed);
    }
}

/// The server is at work for a request of a connection.
#[derive(Debug)]
pub(super) struct AtWork(Arc<Place>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.connection.progress.store(self.0.connections.now(), Relaxed);
        self.0.connection.requests.fetch_sub(1, Relaxed);
    }
}

/// What the connections of one peer have in common: of an IPv6 address the first 64 bits, below which its owner chooses freely.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn connections(connections: usize, per_peer: usize) -> Arc<Connections> {
        let time = Duration::from_secs(30);
        let bounds =
            Bounds { connections, per_peer, exempts_loopback: false, head_time: time, write_time: time };
        Arc::new(Connections::new(bounds, Arc::default()))
    }

    fn peer(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 4000).into()
    }

    fn counts(connections: &Connections) -> (usize, u64, u64) {
        let Counts { open, displaced, refused } = &*connections.counts;
        (open.load(Relaxed), displaced.load(Relaxed), refused.load(Relaxed))
    }

    #[test]
    fn longest_waiting_connection_makes_room() {
        let connections = connections(3, usize::MAX);
        let places: Vec<_> = (1..=3).map(|last| Arc::new(connections.admit(peer(last)).unwrap())).collect();
        // The first is at work; of the others the second has waited longest.
        let at_work = places[0].at_work();
        let fourth = connections.admit(peer(4)).unwrap();
        assert!(!connections.open().by_number.contains_key(&places[1].number));
        assert_eq!(counts(&connections), (3, 1, 0));
        drop(at_work);
        drop(fourth);
        assert_eq!(counts(&connections), (2, 1, 0));
        drop(places);
        assert_eq!(counts(&connections), (0, 1, 0));
    }

    #[test]
    fn connections_at_work_are_not_closed_unless_their_clients_stall() {
        let connections = connections(1, usize::MAX);
        let place = Arc::new(connections.admit(peer(1)).unwrap());
        let _at_work = place.at_work();
        assert!(connections.admit(peer(2)).is_none());
        assert_eq!(counts(&connections), (1, 0, 1));
        place.stalled();
        assert!(connections.admit(peer(2)).is_some());
    }

    #[test]
    fn a_peer_at_its_bound_makes_room_itself() {
        let connections = connections(10, 2);
        let other = connections.admit(peer(9)).unwrap();
        let first = connections.admit(peer(1)).unwrap();
        let _more = [connections.admit(peer(1)).unwrap(), connections.admit(peer(1)).unwrap()];
        let open = connections.open();
        assert!(open.by_number.contains_key(&other.number) && !open.by_number.contains_key(&first.number));
    }

    #[test]
    fn ipv6_peers_are_told_apart_by_their_prefix() {
        let prefix = |text: &str| prefix(text.parse().unwrap());
        assert_eq!(prefix("2001:db8::1"), prefix("2001:db8::ffff:1"));
        assert_ne!(prefix("2001:db8::1"), prefix("2001:db8:0:1::1"));
        assert_eq!(prefix("::ffff:192.0.2.1"), prefix("192.0.2.1"));
        assert!(prefix("::1").is_loopback());
    }
}
