#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::{
    super::{
        scripted::{self, Asked, Reply},
        wire::{HEADER, Message, u32_at, u64_at, within},
    },
    *,
};

/// Queues, filters and police actions as a kernel has them, and what it refuses.
#[derive(Debug, Default)]
struct Queues {
    rates: BTreeMap<u32, u64>,
    /// Filters of the links that have hooks.
    hooks: BTreeMap<u32, u32>,
    refuses_hooks: BTreeMap<u32, Errno>,
    refuses_to_unhook: BTreeMap<u32, Errno>,
    /// Packets that came in on a link, and what of it filters saw.
    packets: BTreeMap<u32, [u64; 2]>,
    /// How often hooks were asked for.
    asked: u32,
}

fn bytes(message: Message) -> Vec<u8> {
    message.finish(0).split_off(HEADER)
}

impl Queues {
    fn answer(&mut self, asked: &Asked) -> Reply {
        let link = u32_at(&asked.body, 4).unwrap_or(0);
        match asked.kind {
            18 => {
                let mut counts = vec![0; 64];
                counts[..8].copy_from_slice(&self.packets.get(&link).copied().unwrap_or_default()[0].to_ne_bytes());
                Reply::One(bytes(Message::new(0, 0, &[0; 16]).with_name(3, "p").with(23, &counts)))
            }
            36 => {
                self.asked += 1;
                if let Some(error) = self.refuses_hooks.get(&link) {
                    return Reply::Error(*error);
                }
                let free = !self.hooks.contains_key(&link);
                self.hooks.entry(link).or_default();
                if free { Reply::Done } else { Reply::Error(Errno::EXIST) }
            }
            37 => match self.refuses_to_unhook.get(&link) {
                Some(error) => Reply::Error(*error),
                None if self.hooks.remove(&link).is_some() => Reply::Done,
                None => Reply::Error(Errno::INVAL),
            },
            44 => {
                *self.hooks.get_mut(&link).unwrap() += 1;
                Reply::Done
            }
            46 => {
                assert!(asked.list);
                let Some(filters) = self.hooks.get(&link) else {
                    return Reply::Error(Errno::INVAL);
                };
                let mut fixed = [0; 20];
                fixed[8..12].copy_from_slice(&0xd05a_u32.to_ne_bytes());
                fixed[16..].copy_from_slice(&0xd05a_0000_u32.to_ne_bytes());
                let seen = self.packets.get(&link).copied().unwrap_or_default()[1];
                let one = Message::new(0, 0, &fixed)
                    .with_name(1, "matchall")
                    .with_nested(2, |m| m.with(4, &seen.to_ne_bytes()));
                Reply::List {
                    bodies: if *filters > 0 { vec![bytes(one)] } else { Vec::new() },
                    interrupted: false,
                }
            }
            48 => {
                let options = within(&asked.body[4..], &[1, 1, 2]).unwrap();
                let index = u32_at(within(options, &[1]).unwrap(), 0).unwrap();
                let rate = u64_at(within(options, &[8]).unwrap(), 0).unwrap();
                self.rates.insert(index, rate);
                Reply::Done
            }
            50 => {
                let index = u32_at(within(&asked.body[4..], &[1, 1, 3]).unwrap(), 0).unwrap();
                let Some(rate) = self.rates.get(&index) else {
                    return Reply::Error(Errno::NOENT);
                };
                Reply::One(bytes(Message::new(0, 0, &[0; 4]).with_nested(1, |m| {
                    m.with_nested(1, |m| {
                        m.with(6, b"duosuan")
                            .with_nested(2, |m| m.with(1, &[0; 56]).with(8, &rate.to_ne_bytes()))
                    })
                })))
            }
            kind => unreachable!("{kind}"),
        }
    }
}

/// A node with these links of batch's.
struct Node {
    network: Network,
    journal: Journal,
    queues: Arc<Mutex<Queues>>,
    _dir: TempDir,
}

impl Node {
    fn new(queues: Queues) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let queues = Arc::new(Mutex::new(queues));
        let theirs = Arc::clone(&queues);
        let socket = scripted::kernel(move |asked| theirs.lock().unwrap().answer(&asked));
        let mut node = Self {
            network: Network::over(socket, dir.path()),
            journal: Journal::open(&dir.path().join("journal"), "boot").unwrap(),
            queues,
            _dir: dir,
        };
        node.find(&[7, 8, 9]);
        node
    }

    fn find(&mut self, links: &[u32]) {
        let links = links
            .iter()
            .filter(|index| self.network.spared.why(**index, 0).is_none());
        self.network.found.links = links.map(|index| (*index, format!("p{index}"))).collect();
    }

    fn hold(&mut self, now: Millis) -> Result<u64, Refused> {
        let action = Action {
            path: NETWORK.to_owned(),
            file: RATES.to_owned(),
            value: "send=8000000 receive=16000000".to_owned(),
            why: "why".to_owned(),
        };
        let mut made = Made::default();
        hold(&mut self.network, &mut self.journal, &action, now, &mut made).map(|()| made.written)
    }

    fn hooked(&self) -> Vec<u32> {
        self.queues.lock().unwrap().hooks.keys().copied().collect()
    }

    fn journalled(&self) -> Vec<u32> {
        held(self.journal.entries()).into_iter().collect()
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.network.odd)
    }
}

fn refusing(links: &[u32], error: Errno) -> Queues {
    Queues {
        refuses_hooks: links.iter().map(|index| (*index, error)).collect(),
        ..Queues::default()
    }
}

/// One link on which the kernel had no hooks switched the guard off for two minutes, on all links.
#[test]
fn what_the_kernel_refuses_on_one_link_is_of_that_link_alone() {
    for error in [Errno::OPNOTSUPP, Errno::BUSY, Errno::PERM, Errno::NOENT, Errno::NOSPC] {
        let mut node = Node::new(refusing(&[8], error));
        assert_eq!(node.hold(0), Ok(4), "{error}");
        assert_eq!((node.hooked(), node.journalled()), (vec![7, 9], vec![7, 9]), "{error}");
        assert_eq!(node.network.spared.why(8, 0), Some(Why::Refused));
        let told = node.told();
        assert!(told.len() == 1 && told[0].starts_with("p8: "), "{told:?}");
        // It is not asked the same at each look, and is tried again some time.
        assert_eq!((node.hold(1_000), node.told().len()), (Ok(0), 0));
        assert_eq!(node.queues.lock().unwrap().asked, 3);
        assert_eq!(node.network.spared.why(8, 200_000), None);
        node.queues.lock().unwrap().refuses_hooks.clear();
        node.network.found.links.insert(8, "p8".to_owned());
        assert_eq!(node.hold(200_000), Ok(1));
        assert_eq!(node.hooked(), [7, 8, 9]);
    }
}

#[test]
fn where_not_one_link_is_held_the_kernel_cannot_do_it_if_it_says_so() {
    let mut node = Node::new(refusing(&[7, 8, 9], Errno::NOENT));
    let (error, message) = node.hold(0).unwrap_err();
    assert_eq!(error, Some(Errno::NOENT));
    assert!(message.contains("no module for that"), "{message}");
    assert_eq!(node.journalled(), [0; 0]);
    let mut node = Node::new(refusing(&[7, 8, 9], Errno::BUSY));
    assert_eq!(node.hold(0), Ok(2), "the two actions");
    assert_eq!((node.journalled().len(), node.told().len()), (0, 3));
}

/// Links that came after one that could not be let go kept their filters.
#[test]
fn a_link_that_cannot_be_let_go_keeps_none_of_the_others_and_stays_in_the_journal() {
    let mut node = Node::new(Queues {
        refuses_to_unhook: BTreeMap::from([(7, Errno::BUSY)]),
        ..Queues::default()
    });
    assert_eq!(node.hold(0), Ok(5));
    node.find(&[9]);
    assert_eq!(node.hold(1_000), Ok(1));
    assert_eq!((node.hooked(), node.journalled()), (vec![7, 9], vec![7, 9]));
    assert!(node.told()[0].starts_with("link 7: "));
    assert_eq!((node.hold(2_000), node.told().len()), (Ok(0), 0), "not at each look");
    node.queues.lock().unwrap().refuses_to_unhook.clear();
    assert_eq!(node.hold(300_000), Ok(1));
    assert_eq!((node.hooked(), node.journalled()), (vec![9], vec![9]));
}

/// A want of memory for a moment took the link for refused, or the guard off.
#[test]
fn what_passes_leaves_the_link_in_the_journal_to_be_looked_after() {
    let mut node = Node::new(refusing(&[8], Errno::NOMEM));
    let (error, _) = node.hold(0).unwrap_err();
    assert_eq!((error, node.hooked()), (Some(Errno::NOMEM), vec![7, 9]));
    assert_eq!(
        (node.journalled(), node.network.spared.why(8, 0)),
        (vec![7, 8, 9], None)
    );
    assert!(node.network.astray);
    // It took a kernel that was short of memory for somebody who keeps taking the rates off, and left the link to him.
    for look in 1..20 {
        let _ = node.hold(look * 1_000);
        node.find(&[7, 8, 9]);
    }
    assert_eq!(node.network.spared.why(8, 20_000), None);
    node.queues.lock().unwrap().refuses_hooks.clear();
    node.hold(20_000).unwrap();
    node.hold(21_000).unwrap();
    assert_eq!(node.hooked(), [7, 8, 9]);
}

/// Cilium's programs (tcx) took all packets before our filter: batch was said to be held, and what it sent was taken for prod's.
#[test]
fn a_link_whose_packets_never_come_by_our_filter_is_left_alone() {
    let mut node = Node::new(Queues::default());
    node.hold(0).unwrap();
    let look = |node: &mut Node, packets: [(u32, [u64; 2]); 3]| {
        node.queues.lock().unwrap().packets = BTreeMap::from(packets);
        let ours = held(node.journal.entries());
        node.network.check(&ours, 0).unwrap();
        [7, 8, 9].map(|index| node.network.spared.why(index, 0))
    };
    // What came by before it was first looked at says nothing.
    assert_eq!(look(&mut node, [(7, [9_000, 0]), (8, [0, 0]), (9, [0, 0])]), [None; 3]);
    // Few packets say nothing yet, and add up.
    assert_eq!(
        look(&mut node, [(7, [9_150, 0]), (8, [150, 149]), (9, [1_000, 500])]),
        [None; 3]
    );
    let found = look(&mut node, [(7, [9_250, 0]), (8, [250, 240]), (9, [1_100, 500])]);
    assert_eq!(found, [Some(Why::Bypassed), None, None]);
    assert!(node.hold(1_000).is_ok());
    node.find(&[7, 8, 9]);
    assert_eq!(node.hold(2_000), Ok(1));
    assert_eq!(node.hooked(), [8, 9]);
}

#[test]
fn each_link_of_many_has_its_turn_to_be_looked_after() {
    let mut node = Node::new(Queues::default());
    let all: Vec<u32> = (100..150).collect();
    node.find(&all);
    node.hold(0).unwrap();
    let ours = held(node.journal.entries());
    for _ in 0..4 {
        node.network.check(&ours, 0).unwrap();
    }
    assert_eq!(node.network.passed.keys().copied().collect::<Vec<u32>>(), all);
}
