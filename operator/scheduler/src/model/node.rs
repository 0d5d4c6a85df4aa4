//! A node: what it has, what is held of it, and its position in the node order.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use crate::{
    amount::{Amount, Totals},
    event,
    model::{
        DeviceUse, Model, Seat, Shape,
        areas::InAreas,
        cell::{Numa, Part},
        device::Device,
        ports::HostPort,
        volumes::Volume,
    },
    slab::{DomainOrd, ImageOrd, KeyOrd, MarkOrd, NodeOrd, PodOrd, TaintOrd},
};

/// Distance of neighbours in the node order when nodes are appended: 2^32 of them fit before ranks are spread anew.
const GAP: u64 = 1 << 32;

/// A node, or the name of one that pods are bound to and that has not been heard of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeSlot {
    pub(crate) name: Arc<str>,
    /// Position in the node order: ascending as the names are.
    pub(crate) rank: u64,
    /// False for a mere name.
    pub(crate) present: bool,
    /// Another one after each change of what placement sees besides use, and never that of another node.
    pub(crate) epoch: u64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<TaintOrd>,
    pub(crate) unschedulable: bool,
    pub(crate) stale: bool,
    pub(crate) hot: bool,
    /// Below [`event::LOAD_STEPS`].
    pub(crate) load: Option<u8>,
    pub(crate) allocatable: Totals,
    pub(crate) used: Totals,
    pub(crate) devices: Vec<Device>,
    /// May be longer than `devices`: bound pods may name devices that are gone.
    pub(crate) device_use: Vec<DeviceUse>,
    /// Whole devices held by bound pods of which we do not know which they have.
    pub(crate) floating: i64,
    /// Host ports that are held, with how many pods hold each.
    pub(crate) ports: BTreeMap<HostPort, u32>,
    /// Volumes that several pods may use, with how many pods here use each.
    pub(crate) volumes: BTreeMap<Volume, u32>,
    /// Pods whose seat is here and counts.
    pub(crate) pods: BTreeSet<PodOrd>,
    /// How many of them each mark counts.
    pub(crate) marks: BTreeMap<MarkOrd, u32>,
    /// The parts that it belongs to, by key.
    pub(crate) domains: Vec<Option<DomainOrd>>,
    pub(crate) location: event::Location,
    /// The areas that it is in, by level; none while it is not present.
    pub(crate) areas: InAreas,
    /// Its NUMA nodes, by number.
    pub(crate) numa: Vec<Numa>,
    /// Its cells as areas, in their order.
    pub(crate) parts: Vec<Part>,
    /// Big images that it holds, with their bytes, in the order of their names.
    pub(crate) images: Vec<(ImageOrd, i64)>,
}

impl NodeSlot {
    /// Counts a pod in or out.
    pub(crate) fn count(&mut self, pod: PodOrd, shape: &Shape, seat: &Seat, hold: bool) {
        let devices = &*seat.devices;
        if hold {
            self.pods.insert(pod);
            self.used.add(&shape.requests);
        } else {
            self.pods.remove(&pod);
            self.used.sub(&shape.requests);
        }
        for port in &shape.ports {
            let holders = self.ports.entry(port.clone()).or_insert(0);
            *holders = if hold { *holders + 1 } else { holders.saturating_sub(1) };
            if *holders == 0 {
                self.ports.remove(port);
            }
        }
        self.count_volumes(&shape.volumes, hold);
        if let Some(id) = seat.numa
            && let Some(numa) = self.numa.iter_mut().find(|numa| numa.id == id)
        {
            if hold {
                numa.used.add(&shape.requests);
            } else {
                numa.used.sub(&shape.requests);
            }
        }
        let Some(need) = &shape.gpus else { return };
        if devices.is_empty() {
            let count = i64::from(need.count);
            self.floating += if hold { count } else { -count };
        }
        for &device in devices {
            let index = usize::from(device);
            if index >= self.device_use.len() {
                self.device_use.resize(index + 1, DeviceUse::default());
            }
            let memory = self.devices.get(index).map_or(Amount::ZERO, |d| d.memory_held(need));
            if let Some(used) = self.device_use.get_mut(index) {
                if hold {
                    used.milli += need.milli;
                    used.memory += memory;
                } else {
                    used.milli -= need.milli;
                    used.memory -= memory;
                }
            }
        }
        while self.device_use.last().is_some_and(|u| u.is_free()) {
            self.device_use.pop();
        }
    }

    /// Counts a mark of a pod in or out.
    pub(crate) fn mark(&mut self, mark: MarkOrd, hold: bool) {
        let count = self.marks.entry(mark).or_insert(0);
        *count = if hold { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.marks.remove(&mark);
        }
    }

    /// The part that it belongs to.
    pub(crate) fn domain(&self, key: KeyOrd) -> Option<DomainOrd> {
        self.domains.get(key.index()).copied().flatten()
    }

    /// Forgets what is held, to count it anew.
    pub(crate) fn forget_use(&mut self) {
        self.used = Totals::default();
        self.device_use.clear();
        self.floating = 0;
        self.ports.clear();
        self.volumes.clear();
        for numa in &mut self.numa {
            numa.used = Totals::default();
        }
    }

    /// True if one of some ports is held.
    pub(crate) fn port_conflict(&self, ports: &[HostPort]) -> bool {
        ports
            .iter()
            .any(|port| self.ports.keys().any(|held| held.conflicts(port)))
    }
}

impl Model {
    /// The node of a name; a mere name, if nothing is known of it.
    pub(crate) fn node_named(&mut self, name: &str) -> NodeOrd {
        if let Some(&known) = self.nodes_by_name.get(name) {
            return known;
        }
        let name: Arc<str> = name.into();
        let rank = self.rank_for(&name);
        let ord = self.nodes.insert(NodeSlot {
            name: name.clone(),
            rank,
            ..Default::default()
        });
        self.nodes_by_name.insert(name, ord);
        self.changes.touch(ord);
        ord
    }

    /// A rank between the neighbours of a name. Where there is none left, all ranks are spread anew: their order, and
    /// with it every decision, stays.
    fn rank_for(&mut self, name: &Arc<str>) -> u64 {
        for _ in 0..2 {
            let before = self
                .nodes_by_name
                .range::<Arc<str>, _>((Bound::Unbounded, Bound::Excluded(name)))
                .next_back();
            let after = self
                .nodes_by_name
                .range::<Arc<str>, _>((Bound::Excluded(name), Bound::Unbounded))
                .next();
            let low = before.map_or(0, |(_, &n)| self.nodes[n].rank);
            let high = after.map(|(_, &n)| self.nodes[n].rank);
            match high {
                None if low < u64::MAX - GAP => return low + GAP,
                Some(high) if high - low > 1 => return low + (high - low) / 2,
                _ => self.spread_ranks(),
            }
        }
        // Two neighbours are GAP apart after spreading, so that the second round returns; a tie would be broken by the
        // index's next key.
        GAP
    }

    fn spread_ranks(&mut self) {
        let mut rank = 0;
        let in_order: Vec<NodeOrd> = self.nodes_by_name.values().copied().collect();
        for ord in in_order {
            rank += GAP;
            self.nodes[ord].rank = rank;
            self.changes.touch(ord);
        }
    }

    /// Takes in a node. True if anything changed.
    pub(crate) fn apply_node(&mut self, event: &event::Node) -> bool {
        let ord = self.node_named(&event.name);
        // They come and go with every pod, and change nothing else of the node.
        let other_images = self.take_in_images(ord, &event.images);
        let mut allocatable = Totals::default();
        allocatable.add(&self.resources.taken_in(&event.allocatable));
        let devices: Vec<Device> = event
            .gpus
            .iter()
            .take(usize::from(u16::MAX))
            .map(|gpu| Device {
                model: self.models.intern(gpu.model.as_str()),
                memory: Amount::taken_in(gpu.memory),
                driver: Amount::taken_in(gpu.driver_memory.unwrap_or(0).min(gpu.memory)),
                numa: gpu.numa,
                nvlink: gpu.nvlink,
                divided: gpu.divided,
                unhealthy: gpu.unhealthy,
            })
            .collect();
        let numa = Numa::taken_in(&event.numa);
        let node = &self.nodes[ord];
        let other_numa =
            node.numa.len() != numa.len() || !node.numa.iter().zip(&numa).all(|(a, b)| a.is_as_large_as(b));
        let same = node.present
            && !other_numa
            && node.allocatable == allocatable
            && node.devices == devices
            && node.taints.iter().filter_map(|&ord| self.taint(ord)).eq(&event.taints)
            && node.labels == event.labels
            && node.unschedulable == event.unschedulable
            && node.stale == event.stale
            && node.hot == event.hot
            && node.location == event.location;
        let load = event.load.map(|step| step.min(event::LOAD_STEPS - 1));
        let other_load = node.load != load;
        self.nodes[ord].load = load;
        if same {
            if other_load {
                // Who fits stays the same, and only few value a node by it.
                self.loads.touch(ord);
            }
            return other_images || other_load;
        }
        self.count_capacity(ord, false);
        self.epochs += 1;
        let taints = event.taints.iter().map(|taint| self.taints.acquire(taint.clone()).0);
        let taints: Vec<TaintOrd> = taints.collect();
        let areas = self.areas.enter(&event.name, &event.location);
        let node = &mut self.nodes[ord];
        let left = std::mem::replace(&mut node.areas, areas);
        node.location = event.location.clone();
        let recount = other_numa || node.devices != devices;
        if other_numa {
            node.numa = numa;
        }
        node.present = true;
        node.epoch = self.epochs;
        node.allocatable = allocatable;
        node.devices = devices;
        let untaken = std::mem::replace(&mut node.taints, taints);
        node.labels = event.labels.clone();
        node.unschedulable = event.unschedulable;
        node.stale = event.stale;
        node.hot = event.hot;
        for taint in untaken {
            self.taints.release(taint);
        }
        self.areas.leave(&left);
        self.domains_changed(ord, &left);
        self.find_parts(ord);
        self.find_domains(ord);
        self.count_capacity(ord, true);
        if recount {
            self.recount_node(ord);
        }
        self.changes.touch(ord);
        self.freed += 1;
        true
    }

    /// A node is gone; its pods, if any, keep its name alive.
    pub(crate) fn apply_node_gone(&mut self, name: &str) {
        let Some(&ord) = self.nodes_by_name.get(name) else {
            return;
        };
        if !self.nodes[ord].present {
            return;
        }
        self.count_capacity(ord, false);
        let node = &mut self.nodes[ord];
        let (name, rank) = (node.name.clone(), node.rank);
        let pods = std::mem::take(&mut node.pods);
        let (marks, domains) = (std::mem::take(&mut node.marks), std::mem::take(&mut node.domains));
        let left = std::mem::take(&mut node.areas);
        let taints = std::mem::take(&mut node.taints);
        let parts = std::mem::take(&mut node.parts);
        let images = std::mem::take(&mut node.images);
        *node = NodeSlot {
            name,
            rank,
            pods,
            marks,
            domains,
            ..Default::default()
        };
        for taint in taints {
            self.taints.release(taint);
        }
        self.areas.leave(&left);
        self.areas.leave_parts(&parts);
        self.domains_changed(ord, &left);
        self.let_go_of_images(images);
        self.find_domains(ord);
        self.recount_node(ord);
        self.changes.touch(ord);
        // Whoever kept others out of a zone by sitting there does so no more; and what is spread has a part less.
        if !self.nodes[ord].marks.is_empty() || !self.hopes.is_empty() {
            self.freed += 1;
        }
        self.forget_node_if_unused(ord);
    }

    /// Finds the areas that a node's cells are.
    fn find_parts(&mut self, ord: NodeOrd) {
        let node = &mut self.nodes[ord];
        let left = std::mem::take(&mut node.parts);
        node.parts = self.areas.enter_parts(node);
        self.areas.leave_parts(&left);
    }

    /// Drops a mere name that no pod uses any more.
    pub(crate) fn forget_node_if_unused(&mut self, ord: NodeOrd) {
        let Some(node) = self.nodes.find(ord) else { return };
        if node.present || !node.pods.is_empty() {
            return;
        }
        let name = node.name.clone();
        self.nodes_by_name.remove(&name);
        self.nodes.remove(ord);
        self.changes.touch(ord);
    }

    /// Counts what is held on a node anew: how much memory a share is depends on the devices.
    fn recount_node(&mut self, ord: NodeOrd) {
        let pods: Vec<PodOrd> = self.nodes[ord].pods.iter().copied().collect();
        self.nodes[ord].forget_use();
        for pod in pods {
            let slot = &self.pods[pod];
            let shape = self.shapes.value(slot.shape).clone();
            if let Some(seat) = slot.held_seat() {
                self.nodes[ord].count(pod, &shape, seat, true);
            }
        }
    }

    /// Adds what a node has to the capacity of the tiers, or takes it off.
    fn count_capacity(&mut self, ord: NodeOrd, add: bool) {
        let node = &self.nodes[ord];
        let plugin = self.resources.plugin_gpu;
        for (resource, amount) in node.allocatable.iter().filter(|(r, _)| *r != plugin) {
            if let Some(total) = self.capacity.get_mut(self.resources.tier_of(resource)) {
                let total = total.of_mut(self.resources.in_quota(resource));
                *total = if add { *total + amount } else { *total - amount };
            }
        }
        // What is divided is had as other resources.
        let whole = node.devices.iter().filter(|device| !device.divided).count();
        let gpus = Amount::taken_in(i64::try_from(whole).unwrap_or(0) * 1000);
        // A card can be used by any tier: each sees all of them.
        for total in &mut self.capacity {
            let total = total.of_mut(self.resources.gpu);
            *total = if add { *total + gpus } else { *total - gpus };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn ranks_follow_the_names_however_the_nodes_come() {
        let mut model = Model::default();
        // Halving the same gap again and again uses it up after 32 names, and all ranks are spread anew.
        for i in 0..200 {
            model.node_named(&format!("m{}", "a".repeat(200 - i)));
            model.node_named(&format!("n{i:03}"));
        }
        let ranks: Vec<u64> = model.nodes_by_name.values().map(|&n| model.nodes[n].rank).collect();
        assert_eq!(ranks.len(), 400);
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
    }

    #[test]
    fn a_node_that_changes_nothing_is_no_change() {
        let mut model = Model::default();
        let node = event::Node {
            name: "a".into(),
            ..Default::default()
        };
        assert!(model.apply_node(&node));
        let before = model.clone();
        assert!(!model.apply_node(&node));
        assert_eq!(model, before);
    }

    #[test]
    fn a_node_that_is_gone_leaves_nothing() {
        let mut model = Model::default();
        let node = event::Node {
            name: "a".into(),
            allocatable: [("cpu".into(), 4)].into(),
            taints: vec![taint("k")],
            ..Default::default()
        };
        model.apply_node(&node);
        model.apply_node_gone("a");
        model.apply_node_gone("a");
        assert_eq!((model.nodes.len(), model.capacity.clone()), (0, Default::default()));
        assert_eq!(model.taints.len(), 0);
    }

    /// They were kept for ever.
    #[test]
    fn a_taint_goes_with_the_last_node_that_has_it() {
        let mut model = Model::default();
        let node = |name: &str, taints: &[&str]| event::Node {
            name: name.into(),
            taints: taints.iter().map(|key| taint(key)).collect(),
            ..Default::default()
        };
        assert!(model.apply_node(&node("a", &["k", "l"])));
        assert!(model.apply_node(&node("b", &["k"])));
        assert!(!model.apply_node(&node("a", &["k", "l"])));
        assert_eq!(model.taints.len(), 2);
        assert!(model.apply_node(&node("a", &["k"])));
        assert_eq!(model.taints.len(), 1);
        model.apply_node_gone("b");
        assert_eq!(model.taints.len(), 1);
        assert!(model.apply_node(&node("a", &[])));
        assert_eq!(model.taints.len(), 0);
    }

    fn taint(key: &str) -> event::Taint {
        event::Taint {
            key: key.into(),
            value: "v".into(),
            effect: "NoSchedule".into(),
        }
    }
}
