//! Devices of a node: who fits on which, and which are chosen.

use crate::{
    amount::Amount,
    event::Level,
    model::{GpuNeed, NodeSlot, cell::Cell},
    slab::ModelOrd,
};

/// A GPU as the node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) model: ModelOrd,
    /// Zero if unknown; then memory is not accounted.
    pub(crate) memory: Amount,
    /// What of it the driver keeps for itself, never more than there is. Whoever has the whole device sees it go and has
    /// nobody to take it from; shares together get what is left.
    pub(crate) driver: Amount,
    pub(crate) numa: Option<u16>,
    pub(crate) nvlink: Option<u16>,
    /// It is divided into instances that are resources of their own.
    pub(crate) divided: bool,
    pub(crate) unhealthy: bool,
}

impl Device {
    /// True if it may be given to new pods.
    fn is_open(&self) -> bool {
        !self.unhealthy && !self.divided
    }

    /// Bytes of its memory that pods with a need have together at most.
    pub(crate) fn memory_for(&self, need: &GpuNeed) -> Amount {
        if need.whole() {
            self.memory
        } else {
            self.memory - self.driver
        }
    }

    /// Bytes of its memory that a pod with a need holds.
    pub(crate) fn memory_held(&self, need: &GpuNeed) -> Amount {
        if self.memory.is_zero() {
            Amount::ZERO
        } else if !need.memory.is_zero() {
            need.memory
        } else {
            // The same fraction as of compute, rounded up. 2^53 * 1000 < 2^63.
            Amount::taken_in((self.memory_for(need).get() * need.milli).div_ceil_positive(1000))
        }
    }
}

/// How close to each other devices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Closeness {
    /// They reach each other without the host.
    Linked,
    /// They are at the same NUMA node.
    SameNuma,
    /// Neither, or nobody knows.
    Apart,
}

/// Who is to have devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comer {
    /// A pod that was not there, or that has somebody beside it who was not.
    New,
    /// A pod that was there, among those who were.
    Back,
}

/// What is held of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceUse {
    /// Thousandths of its compute.
    pub(crate) milli: i64,
    /// Bytes of its memory.
    pub(crate) memory: Amount,
}

impl DeviceUse {
    /// True if nobody holds anything.
    pub(crate) fn is_free(self) -> bool {
        self == DeviceUse::default()
    }
}

trait DivCeil {
    fn div_ceil_positive(self, by: i64) -> i64;
}

impl DivCeil for i64 {
    fn div_ceil_positive(self, by: i64) -> i64 {
        (self + by - 1) / by
    }
}

impl NodeSlot {
    /// Thousandths that are free on a device and may be given to new pods.
    pub(crate) fn free_milli(&self, index: usize) -> i64 {
        match self.devices.get(index) {
            Some(device) if device.is_open() => (1000 - self.used_of(index).milli).max(0),
            _ => 0,
        }
    }

    /// What is held of a device.
    pub(crate) fn used_of(&self, index: usize) -> DeviceUse {
        self.device_use.get(index).copied().unwrap_or_default()
    }

    /// True if a device is whole, healthy and held by nobody.
    pub(crate) fn is_whole(&self, index: usize) -> bool {
        self.devices.get(index).is_some_and(Device::is_open) && self.used_of(index).is_free()
    }

    /// Devices that are whole, less those that pods hold of which we do not know which they have.
    pub(crate) fn whole_devices(&self) -> i64 {
        let whole = (0..self.devices.len()).filter(|&i| self.is_whole(i)).count();
        i64::try_from(whole).unwrap_or(i64::MAX) - self.floating
    }

    /// True if the model of a device is allowed.
    pub(crate) fn allows(&self, need: &GpuNeed, index: usize) -> bool {
        need.models.is_empty()
            || self
                .devices
                .get(index)
                .is_some_and(|d| need.models.binary_search(&d.model).is_ok())
    }

    /// True if a share fits on a device, whoever else may wait for a whole one.
    fn share_fits(&self, need: &GpuNeed, index: usize, comer: Comer) -> bool {
        let Some(device) = self.devices.get(index) else {
            return false;
        };
        let all = match comer {
            Comer::New => device.memory_for(need),
            Comer::Back => device.memory,
        };
        let used = self.used_of(index);
        device.is_open()
            && self.allows(need, index)
            && used.milli + need.milli <= 1000
            // Of nothing every share is nothing, and would fit.
            && (device.memory.is_zero() || (!all.is_zero() && used.memory + device.memory_held(need) <= all))
    }

    /// How many pods with a need can be given devices here, or in one cell, one after the other.
    pub(crate) fn room_for(&self, need: &GpuNeed, cell: Option<Cell>) -> i64 {
        let fits = |&i: &usize| self.is_in_cell(i, cell) && self.share_fits(need, i, Comer::New);
        let whole = (0..self.devices.len())
            .filter(|i| self.is_whole(*i))
            .filter(fits)
            .count();
        // Those that are kept back for pods of which we do not know which they have.
        let whole = i64::try_from(whole)
            .unwrap_or(i64::MAX)
            .min(self.whole_devices())
            .max(0);
        if need.whole() {
            return whole / i64::from(need.count.max(1));
        }
        let shares = |i: usize| {
            let used = self.used_of(i);
            let by_milli = (1000 - used.milli) / need.milli.max(1);
            match self.devices.get(i).map(|d| (d.memory_for(need), d.memory_held(need))) {
                Some((all, each)) if !all.is_zero() && !each.is_zero() => {
                    by_milli.min((all - used.memory).get() / each.get())
                }
                _ => by_milli,
            }
        };
        let broken = (0..self.devices.len()).filter(|i| !self.is_whole(*i)).filter(fits);
        let on_broken: i64 = broken.map(shares).sum();
        let mut on_whole: Vec<i64> = (0..self.devices.len())
            .filter(|i| self.is_whole(*i))
            .filter(fits)
            .map(shares)
            .collect();
        on_whole.sort_unstable_by(|a, b| b.cmp(a));
        on_broken
            + on_whole
                .into_iter()
                .take(usize::try_from(whole).unwrap_or(0))
                .sum::<i64>()
    }

    /// The devices that could take a share, one of each that differ in what is left, the lowest index first.
    pub(crate) fn choices_of_a_share(&self, need: &GpuNeed) -> Vec<u16> {
        let spare_whole = self.whole_devices() > 0;
        let mut choices: Vec<u16> = Vec::new();
        for index in (0..self.devices.len())
            .filter(|&i| self.share_fits(need, i, Comer::New) && (spare_whole || !self.is_whole(i)))
        {
            let free = self.free_milli(index);
            let seen = choices.iter().any(|&c| self.free_milli(usize::from(c)) == free);
            if !seen && let Ok(index) = u16::try_from(index) {
                choices.push(index);
            }
        }
        choices
    }

    /// The devices that a need gets here, or in one cell, ascending; `None` if it does not fit.
    ///
    /// A share goes where least is left over, so that whole devices stay whole. Whole devices come from the NVLink group with
    /// the fewest whole ones that holds the need, else from such a NUMA node, else from as few of these as hold it. Ties go to
    /// the lowest index.
    pub(crate) fn choose_devices(&self, need: &GpuNeed, cell: Option<Cell>) -> Option<Vec<u16>> {
        let spare_whole = self.whole_devices();
        if !need.whole() {
            let fits = |&i: &usize| {
                self.is_in_cell(i, cell)
                    && self.share_fits(need, i, Comer::New)
                    && (!self.is_whole(i) || spare_whole > 0)
            };
            let best = (0..self.devices.len())
                .filter(fits)
                .min_by_key(|&i| (self.free_milli(i), i))?;
            return Some(vec![u16::try_from(best).ok()?]);
        }
        let count = usize::from(need.count);
        if spare_whole < i64::from(need.count) {
            return None;
        }
        let usable =
            |i: &usize| self.is_in_cell(*i, cell) && self.is_whole(*i) && self.share_fits(need, *i, Comer::New);
        let mut chosen: Vec<usize> = (0..self.devices.len()).filter(usable).collect();
        if chosen.len() < count {
            return None;
        }
        if count > 1 {
            let link_of = |i: usize| self.devices.get(i)?.nvlink;
            let numa_of = |i: usize| self.devices.get(i)?.numa;
            let linked = keep_tightest(&mut chosen, count, link_of);
            let close = keep_tightest(&mut chosen, count, numa_of);
            if !linked && !close {
                let group_of = |i: usize| link_of(i).map_or_else(|| Err(numa_of(i)), Ok);
                chosen = roomiest_first(&chosen, count, group_of);
            }
        }
        chosen.truncate(count);
        chosen.sort_unstable();
        chosen.into_iter().map(|i| u16::try_from(i).ok()).collect()
    }

    /// How close to each other some of its devices are.
    pub(crate) fn closeness(&self, devices: &[u16]) -> Closeness {
        if self.location.nvlink.is_some() || self.cell_shared(Level::Nvlink, devices).is_some() {
            Closeness::Linked
        } else if self.cell_shared(Level::Numa, devices).is_some() {
            Closeness::SameNuma
        } else {
            Closeness::Apart
        }
    }

    /// True if exactly these devices have room for a need: of a new pod, or of one that was there, with nobody new beside it.
    /// To such a one only what the device has counts: if the driver keeps more of it than was known, it has lost nothing by
    /// that yet, and would gain nothing by going.
    pub(crate) fn devices_fit(&self, need: &GpuNeed, devices: &[u16], comer: Comer) -> bool {
        if devices.is_empty() {
            return self.whole_devices() >= i64::from(need.count);
        }
        let fresh = devices.iter().filter(|&&d| self.is_whole(usize::from(d))).count();
        devices
            .iter()
            .all(|&d| self.share_fits(need, usize::from(d), comer) && (!need.whole() || self.is_whole(usize::from(d))))
            && self.whole_devices() >= i64::try_from(fresh).unwrap_or(i64::MAX)
    }
}

/// Keeps of some devices those of the group with the fewest that are enough, the lowest group of several. False, and all
/// stay, if there is none.
fn keep_tightest(devices: &mut Vec<usize>, enough: usize, group_of: impl Fn(usize) -> Option<u16>) -> bool {
    let groups = devices.iter().filter_map(|&i| group_of(i));
    let sizes = groups.map(|group| {
        let size = devices.iter().filter(|&&i| group_of(i) == Some(group)).count();
        (size, group)
    });
    let Some((_, group)) = sizes.filter(|(size, _)| *size >= enough).min() else {
        return false;
    };
    devices.retain(|&i| group_of(i) == Some(group));
    true
}

/// Devices of few groups: the largest ones whole, then those of the smallest that has the rest.
fn roomiest_first<G: PartialEq + Ord>(devices: &[usize], enough: usize, group_of: impl Fn(usize) -> G) -> Vec<usize> {
    let mut groups: Vec<(G, Vec<usize>)> = Vec::new();
    for &device in devices {
        let group = group_of(device);
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, members)) => members.push(device),
            None => groups.push((group, vec![device])),
        }
    }
    let mut chosen = Vec::new();
    while chosen.len() < enough {
        let left = enough - chosen.len();
        let order = |at: &usize| {
            let (group, members) = groups.get(*at)?;
            let holds = members.len() >= left;
            // Of those that hold the rest the smallest, else the largest.
            let size = if holds {
                members.len()
            } else {
                usize::MAX - members.len()
            };
            Some((!holds, size, group))
        };
        let Some(best) = (0..groups.len()).min_by_key(order) else {
            break;
        };
        chosen.extend(groups.swap_remove(best).1);
    }
    chosen
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

    fn node(used: &[i64]) -> NodeSlot {
        let device = Device {
            model: ModelOrd::new(0),
            memory: Amount::taken_in(1000),
            driver: Amount::ZERO,
            numa: None,
            nvlink: None,
            divided: false,
            unhealthy: false,
        };
        NodeSlot {
            devices: vec![device; used.len()],
            device_use: used
                .iter()
                .map(|&m| DeviceUse {
                    milli: m,
                    memory: Amount::taken_in(m),
                })
                .collect(),
            ..Default::default()
        }
    }

    fn share(milli: i64) -> GpuNeed {
        GpuNeed {
            count: 1,
            milli,
            memory: Amount::ZERO,
            models: vec![],
        }
    }

    fn whole(count: u16) -> GpuNeed {
        GpuNeed {
            count,
            milli: 1000,
            memory: Amount::ZERO,
            models: vec![],
        }
    }

    #[test]
    fn a_share_goes_where_least_is_left_over() {
        assert_eq!(
            node(&[0, 300, 700, 900]).choose_devices(&share(200), None),
            Some(vec![2])
        );
        assert_eq!(
            node(&[0, 300, 700, 900]).choose_devices(&share(800), None),
            Some(vec![0])
        );
        assert_eq!(node(&[500, 600]).choose_devices(&share(800), None), None);
    }

    #[test]
    fn memory_alone_can_turn_a_share_away() {
        let need = GpuNeed {
            memory: Amount::taken_in(400),
            ..share(100)
        };
        assert_eq!(node(&[700, 500]).choose_devices(&need, None), Some(vec![1]));
        assert_eq!(node(&[700]).choose_devices(&need, None), None);
    }

    #[test]
    fn what_the_driver_keeps_is_had_by_no_share_and_by_a_whole_device_as_ever() {
        let mut node = node(&[0]);
        node.devices[0].driver = Amount::taken_in(100);
        let of = |milli, memory| GpuNeed {
            memory: Amount::taken_in(memory),
            ..share(milli)
        };
        let fits = |node: &NodeSlot, need: &GpuNeed| node.choose_devices(need, None).is_some();
        assert!(fits(&node, &of(100, 900)) && !fits(&node, &of(100, 901)));
        assert_eq!(node.room_for(&of(100, 300), None), 3);
        assert_eq!(
            node.room_for(&share(500), None),
            2,
            "half of what there is to be had, twice"
        );
        assert_eq!(node.devices[0].memory_held(&share(500)), Amount::taken_in(450));
        assert!(fits(&node, &whole(1)) && fits(&node, &of(1000, 1000)) && !fits(&node, &of(1000, 1001)));
        assert_eq!(node.devices[0].memory_held(&whole(1)), Amount::taken_in(1000));
        node.devices[0].driver = node.devices[0].memory;
        assert!(!fits(&node, &of(1, 1)) && fits(&node, &whole(1)));
        assert!(!fits(&node, &share(500)) && node.room_for(&share(500), None) == 0);
    }

    #[test]
    fn whole_devices_are_those_that_nobody_holds() {
        assert_eq!(node(&[0, 300, 0, 0]).choose_devices(&whole(2), None), Some(vec![0, 2]));
        assert_eq!(node(&[0, 300, 0, 0]).choose_devices(&whole(4), None), None);
    }

    #[test]
    fn devices_of_unknown_holders_are_kept_back() {
        let mut node = node(&[0, 300]);
        node.floating = 1;
        assert_eq!(node.choose_devices(&whole(1), None), None);
        assert_eq!(
            node.choose_devices(&share(800), None),
            None,
            "the whole device is somebody's, we do not know whose"
        );
        assert_eq!(node.choose_devices(&share(100), None), Some(vec![1]));
    }

    #[test]
    fn whole_devices_come_from_the_smallest_nvlink_group_that_holds_them() {
        let mut node = node(&[0; 6]);
        for (i, group) in [0, 0, 0, 0, 1, 1].into_iter().enumerate() {
            node.devices[i].nvlink = Some(group);
        }
        assert_eq!(node.choose_devices(&whole(2), None), Some(vec![4, 5]));
        assert_eq!(node.choose_devices(&whole(3), None), Some(vec![0, 1, 2]));
        assert_eq!(node.choose_devices(&whole(5), None), Some(vec![0, 1, 2, 3, 4]));
    }

    fn linked(links: &[Option<u16>], numa: &[u16]) -> NodeSlot {
        let mut node = node(&vec![0; links.len()]);
        for (device, (link, numa)) in node.devices.iter_mut().zip(links.iter().zip(numa)) {
            (device.nvlink, device.numa) = (*link, Some(*numa));
        }
        node
    }

    #[test]
    fn where_no_link_is_wide_enough_whole_devices_come_from_one_numa_node() {
        let node = linked(
            &[Some(0), Some(1), Some(0), Some(1), Some(2), Some(2)],
            &[0, 1, 0, 1, 1, 1],
        );
        assert_eq!(node.choose_devices(&whole(2), None), Some(vec![0, 2]));
        assert_eq!(node.choose_devices(&whole(3), None), Some(vec![1, 3, 4]));
        assert_eq!(node.closeness(&[0, 2]), Closeness::Linked);
        assert_eq!(node.closeness(&[1, 3, 4]), Closeness::SameNuma);
        assert_eq!(node.closeness(&[0, 1]), Closeness::Apart);
    }

    #[test]
    fn a_link_that_spans_numa_nodes_gives_devices_of_one() {
        let node = linked(&[Some(0); 8], &[0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(node.choose_devices(&whole(4), None), Some(vec![0, 2, 4, 6]));
        assert_eq!(node.choose_devices(&whole(5), None), Some(vec![0, 1, 2, 3, 4]));
    }

    #[test]
    fn devices_that_are_nowhere_together_come_from_few_groups() {
        let node = linked(
            &[Some(0), Some(1), Some(1), Some(2), Some(2), Some(2)],
            &[0, 1, 2, 3, 4, 5],
        );
        assert_eq!(node.choose_devices(&whole(4), None), Some(vec![0, 3, 4, 5]));
        assert_eq!(node.choose_devices(&whole(5), None), Some(vec![1, 2, 3, 4, 5]));
        let plain = self::node(&[0; 4]);
        assert_eq!(plain.choose_devices(&whole(3), None), Some(vec![0, 1, 2]));
        assert_eq!(plain.closeness(&[0, 1]), Closeness::Apart, "nobody knows");
    }

    #[test]
    fn in_a_cell_only_its_devices_are_had() {
        let node = linked(&[Some(0), Some(0), Some(1), Some(1)], &[0, 1, 0, 1]);
        for (cell, two) in [(Cell::Nvlink(1), vec![2, 3]), (Cell::Numa(1), vec![1, 3])] {
            assert_eq!(node.choose_devices(&whole(2), Some(cell)), Some(two));
            assert_eq!(node.choose_devices(&whole(3), Some(cell)), None);
            assert_eq!(node.room_for(&whole(1), Some(cell)), 2);
            assert_eq!(node.room_for(&share(400), Some(cell)), 4);
        }
        assert_eq!(node.choose_devices(&share(500), Some(Cell::Nvlink(1))), Some(vec![2]));
        assert_eq!(node.choose_devices(&share(500), Some(Cell::Nvlink(7))), None);
    }

    #[test]
    fn a_divided_or_sick_device_is_given_to_nobody() {
        let mut node = node(&[0; 3]);
        node.devices[0].divided = true;
        node.devices[1].unhealthy = true;
        assert_eq!(node.choose_devices(&share(100), None), Some(vec![2]));
        assert_eq!(node.choose_devices(&whole(1), None), Some(vec![2]));
        assert_eq!(node.choose_devices(&whole(2), None), None);
        assert_eq!((node.free_milli(0), node.room_for(&share(500), None)), (0, 2));
    }
}
