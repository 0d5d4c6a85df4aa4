//! Links of the node: the node's ends of its pods' links, and the one that leads out.

use std::path::Path;

use rustix::io::Errno;

use super::{
    is_passing,
    socket::Socket,
    wire::{attribute, i32_at, name, u32_at, u64_at, within},
};

/// Kinds of messages.
const GET_LINK: u16 = 18;
const GET_ROUTE: u16 = 26;
const GET_NAMESPACE: u16 = 90;

/// Attributes of a link.
const NAME: u16 = 3;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const STATS64: u16 = 23;
const FILTER: u16 = 29;
const PEERS_NAMESPACE: u16 = 37;
/// A link's own statistics are left out.
const SKIP_STATS: u32 = 8;
/// Attributes of a namespace and of a route.
const NAMESPACE: u16 = 1;
const PROCESS: u16 = 2;
const DESTINATION: u16 = 1;
const OUT: u16 = 4;

/// Addresses that lead out of any node, and to nobody (RFC 5737, RFC 3849).
const OUTSIDE: [(u8, &[u8]); 2] = [
    (2, &[192, 0, 2, 1]),
    (10, &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
];
/// Kinds of links that are a pair, one end of which is the pod's.
const PAIRS: [&str; 2] = ["veth", "netkit"];
/// A link that says that it is faster than this, in Mbit/s, does not know how fast it is.
const FASTEST: i64 = 10_000_000;

/// The node's end of a pair of which the other end is in a namespace of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// The namespace of the other end, as the kernel numbers it for the node.
    pub(super) namespace: i32,
}

/// What a link has carried, as the node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) name: String,
    /// Its kind, where it is not simply a card.
    pub(super) kind: Option<String>,
    /// Bytes.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Packets that came in on it.
    pub(super) packets_received: u64,
}

/// The fixed part of messages about links.
fn fixed(link: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Some(place) = bytes.get_mut(4..8) {
        place.copy_from_slice(&link.to_ne_bytes());
    }
    bytes
}

/// The node's ends of links to other namespaces. To number these is what the kernel does when it is asked, if nobody did before.
pub(super) fn pairs(socket: &mut Socket) -> Result<Vec<Link>, Errno> {
    let mut links = Vec::new();
    let filter = |m: super::wire::Message| m.with(FILTER, &SKIP_STATS.to_ne_bytes());
    socket.list(GET_LINK, &fixed(0), filter, |body| {
        let Some((index, rest)) = u32_at(body, 4).zip(body.get(16..)) else {
            return;
        };
        let kind = within(rest, &[INFO, INFO_KIND]).map(name);
        let namespace = attribute(rest, PEERS_NAMESPACE).and_then(|bytes| i32_at(bytes, 0));
        if let (Some(namespace), Some(kind)) = (namespace.filter(|n| *n >= 0), kind)
            && PAIRS.contains(&kind.as_str())
        {
            let name = attribute(rest, NAME).map(name).unwrap_or_default();
            links.push(Link { index, name, namespace });
        }
    })?;
    Ok(links)
}

/// The network namespace of a process, as the kernel numbers it for the node; none if it is the node's own, or has no link to it.
pub(super) fn namespace_of(socket: &mut Socket, process: i32) -> Result<Option<i32>, Errno> {
    let mut found = None;
    let with = |m: super::wire::Message| m.with(PROCESS, &process.to_ne_bytes());
    let asked = socket.ask(GET_NAMESPACE, &[0; 4], with, |body| {
        found = body
            .get(4..)
            .and_then(|rest| attribute(rest, NAMESPACE))
            .and_then(|bytes| i32_at(bytes, 0));
    });
    match asked {
        // The process is gone.
        Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found.filter(|namespace| *namespace >= 0)),
    }
}

/// The link by which the node reaches what is not on it, by IPv4 or else by IPv6; none where nothing leads out.
pub(super) fn way_out(socket: &mut Socket) -> Result<Option<u32>, Errno> {
    for (family, address) in OUTSIDE {
        let mut found = None;
        let bits = u8::try_from(address.len() * 8).unwrap_or(u8::MAX);
        let fixed = [family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let asked = socket.ask(
            GET_ROUTE,
            &fixed,
            |m| m.with(DESTINATION, address),
            |body| {
                found = body
                    .get(12..)
                    .and_then(|rest| attribute(rest, OUT))
                    .and_then(|bytes| u32_at(bytes, 0));
            },
        );
        match asked {
            Ok(()) if found.is_some() => return Ok(found),
            // No route, one that forbids it, or no such protocol.
            Ok(())
            | Err(
                Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::ACCESS
                | Errno::INVAL
                | Errno::AFNOSUPPORT
                | Errno::OPNOTSUPP,
            ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// What a link has carried; none if it is gone.
pub(super) fn carried(socket: &mut Socket, link: u32) -> Result<Option<Carried>, Errno> {
    let mut found = None;
    let asked = socket.ask(
        GET_LINK,
        &fixed(link),
        |m| m,
        |body| {
            found = body.get(16..).and_then(|rest| {
                let counts = attribute(rest, STATS64)?;
                Some(Carried {
                    name: name(attribute(rest, NAME)?),
                    kind: within(rest, &[INFO, INFO_KIND]).map(name),
                    packets_received: u64_at(counts, 0)?,
                    received: u64_at(counts, 16)?,
                    sent: u64_at(counts, 24)?,
                })
            });
        },
    );
    match asked {
        Err(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

/// How fast a link is, bits a second, where its driver says so. The driver says nothing while the link is down.
pub(super) fn speed(socket: &mut Socket, sys: &Path, link: &str) -> Result<Option<i64>, Errno> {
    match socket.read(sys.join("class/net").join(link).join("speed")) {
        Ok(text) => Ok(of_text(&text)),
        Err(error) if is_passing(error) => Err(error),
        Err(_) => Ok(None),
    }
}

fn of_text(text: &str) -> Option<i64> {
    let megabits: i64 = text.trim().parse().ok()?;
    (1..=FASTEST).contains(&megabits).then_some(megabits * 1_000_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::{
        super::scripted::{self, Reply},
        *,
    };

    #[test]
    fn a_speed_that_the_driver_does_not_know_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("class/net/eth0");
        std::fs::create_dir_all(&folder).unwrap();
        let mut socket = scripted::kernel(|_| Reply::Done);
        for (text, wanted) in [
            ("25000\n", Some(25_000_000_000)),
            ("-1\n", None),
            ("4294967295\n", None),
            ("0\n", None),
            ("", None),
        ] {
            std::fs::write(folder.join("speed"), text).unwrap();
            assert_eq!(speed(&mut socket, dir.path(), "eth0"), Ok(wanted), "{text:?}");
        }
        assert_eq!(speed(&mut socket, dir.path(), "eth1"), Ok(None));
    }
}
