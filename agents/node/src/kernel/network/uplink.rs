//! Where the traffic of the node leaves it: the link that the route out names, or the one below it that carries what the route's
//! does not show.
//!
//! A bridge counts what the node itself sends over it, and not what the pods behind its other ports do; so does a port of Open
//! vSwitch, and a VLAN counts none of the other VLANs of its card. What prod needs would look like nothing, and batch would
//! get all of it.

use std::path::{Path, PathBuf};

/// A VLAN on a bridge on a bond is three.
const DEEPEST: u32 = 5;
/// The kind of Open vSwitch's own ports, and the link that all other ports of it have for a master.
const OPENVSWITCH: &str = "openvswitch";
const DATAPATH: &str = "ovs-system";

/// The link that counts what leaves by the link `name` of a kind.
///
/// # Errors
///
/// In words, where none is known to.
pub(super) fn below(sys: &Path, name: &str, kind: Option<&str>) -> Result<String, String> {
    let links = Links(sys.join("class/net"));
    let first = if kind == Some(OPENVSWITCH) {
        links.only(name, "a port of Open vSwitch", &links.of_datapath())?
    } else {
        name.to_owned()
    };
    links.follow(first)
}

/// The number of a link, by its name.
pub(super) fn index(sys: &Path, name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(sys.join("class/net").join(name).join("ifindex")).ok()?;
    text.trim().parse().ok()
}

/// Links as sysfs shows them.
struct Links(PathBuf);

impl Links {
    fn follow(&self, mut name: String) -> Result<String, String> {
        for _ in 0..DEEPEST {
            let next = if self.has(&name, "bridge") {
                self.only(&name, "a bridge", &self.names(&self.0.join(&name).join("brif")))?
            } else if self.has(&name, "bonding") {
                // It counts what all its cards carry, and says how fast they are together.
                return Ok(name);
            } else {
                let lower = self.lower(&name);
                let [lower] = lower.as_slice() else { return Ok(name) };
                lower.clone()
            };
            name = next;
        }
        Err(format!("{name} lies on too many links"))
    }

    /// The one of these ports that leads out of the node.
    fn only(&self, name: &str, what: &str, ports: &[String]) -> Result<String, String> {
        let out: Vec<&String> = ports.iter().filter(|port| self.leads_out(port)).collect();
        match out.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(format!(
                "{name} is {what} that hides what pods send through it, and none of its ports is a card of the node"
            )),
            several => {
                let several: Vec<&str> = several.iter().map(|port| port.as_str()).collect();
                Err(format!(
                    "{name} is {what} that hides what pods send through it, and which of its ports leads out is not known: {}",
                    several.join(", ")
                ))
            }
        }
    }

    /// A card, or what lies on one; the ends of pods' links, and of virtual machines', are neither.
    fn leads_out(&self, name: &str) -> bool {
        self.has(name, "device") || self.has(name, "bonding") || !self.lower(name).is_empty()
    }

    fn of_datapath(&self) -> Vec<String> {
        let master = |name: &String| std::fs::read_link(self.0.join(name).join("master")).ok();
        let is = |name: &String| master(name).is_some_and(|master| master.file_name().is_some_and(|n| n == DATAPATH));
        self.names(&self.0).into_iter().filter(is).collect()
    }

    fn lower(&self, name: &str) -> Vec<String> {
        let names = self.names(&self.0.join(name));
        names
            .iter()
            .filter_map(|name| Some(name.strip_prefix("lower_")?.to_owned()))
            .collect()
    }

    fn has(&self, name: &str, what: &str) -> bool {
        self.0.join(name).join(what).symlink_metadata().is_ok()
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// Links below a folder, each with its files; `A -> B` is a symbolic link.
    fn sys(links: &[(&str, &[&str])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, files) in links {
            let folder = dir.path().join("class/net").join(name);
            fs::create_dir_all(&folder).unwrap();
            for file in *files {
                if let Some((from, to)) = file.split_once(" -> ") {
                    symlink(to, folder.join(from)).unwrap();
                } else {
                    fs::create_dir_all(folder.join(file)).unwrap();
                }
            }
        }
        dir
    }

    fn of(links: &[(&str, &[&str])], name: &str, kind: Option<&str>) -> Result<String, String> {
        below(sys(links).path(), name, kind)
    }

    /// The guard looked at the bridge, saw next to nothing of what prod's pods sent, and gave batch nine tenths of the card.
    #[test]
    fn a_bridge_is_followed_to_the_card_that_is_its_port() {
        let links: &[(&str, &[&str])] = &[
            (
                "br0",
                &["bridge", "brif/eth0.7", "brif/veth1", "lower_eth0.7", "lower_veth1"],
            ),
            ("eth0.7", &["lower_eth0 -> ../eth0", "master -> ../br0"]),
            ("eth0", &["device"]),
            ("veth1", &["master -> ../br0"]),
        ];
        assert_eq!(of(links, "br0", Some("bridge")), Ok("eth0".to_owned()));
        assert_eq!(of(links, "eth0", None), Ok("eth0".to_owned()));
        assert_eq!(of(links, "veth1", Some("veth")), Ok("veth1".to_owned()));
    }

    #[test]
    fn a_bond_counts_for_all_its_cards() {
        let links: &[(&str, &[&str])] = &[
            ("br0", &["bridge", "brif/bond0", "brif/tap1"]),
            ("bond0", &["bonding", "lower_eth0", "lower_eth1"]),
            ("tap1", &[]),
        ];
        assert_eq!(of(links, "br0", Some("bridge")), Ok("bond0".to_owned()));
    }

    #[test]
    fn where_no_port_or_more_than_one_leads_out_it_is_said_which() {
        let links: &[(&str, &[&str])] = &[
            ("br0", &["bridge", "brif/veth1"]),
            ("br1", &["bridge", "brif/eth0", "brif/eth1"]),
            ("eth0", &["device"]),
            ("eth1", &["device"]),
            ("veth1", &[]),
        ];
        let why = of(links, "br0", Some("bridge")).unwrap_err();
        assert!(
            why.contains("br0 is a bridge") && why.contains("none of its ports"),
            "{why}"
        );
        let why = of(links, "br1", Some("bridge")).unwrap_err();
        assert!(why.ends_with("not known: eth0, eth1"), "{why}");
    }

    #[test]
    fn a_port_of_open_vswitch_is_followed_to_the_one_card_of_the_datapath() {
        let mut links: Vec<(&str, &[&str])> = vec![
            ("br-ex", &[]),
            ("ovs-system", &[]),
            ("eth0", &["device", "master -> ../ovs-system"]),
            ("eth1", &["device"]),
            ("veth1", &["master -> ../ovs-system"]),
        ];
        assert_eq!(of(&links, "br-ex", Some("openvswitch")), Ok("eth0".to_owned()));
        links.push(("eth2", &["device", "master -> ../ovs-system"]));
        let why = of(&links, "br-ex", Some("openvswitch")).unwrap_err();
        assert!(
            why.contains("br-ex is a port of Open vSwitch") && why.ends_with("eth0, eth2"),
            "{why}"
        );
    }

    #[test]
    fn links_that_lie_on_each_other_without_end_are_given_up() {
        let links: &[(&str, &[&str])] = &[("a", &["lower_b"]), ("b", &["lower_a"])];
        assert!(of(links, "a", None).unwrap_err().contains("too many links"));
        assert_eq!(index(sys(links).path(), "a"), None);
    }
}
