//! Counters of the whole node as the report shows them: disks with how busy they were since they were read last.

use std::{collections::BTreeMap, sync::Arc};

use crate::observation::{Disk, Host, Millis, Paging};

/// The whole node, as it was read last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// When that was.
    pub at: Option<Millis>,
    /// Processes that ran or waited in the mean of 1, 5 and 15 minutes, hundredths.
    pub load: Option<[u32; 3]>,
    /// What its memory management did since boot.
    pub paging: Option<Paging>,
    /// Its disks, by name.
    pub disks: Vec<DiskView>,
}

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskView {
    /// Name.
    pub name: String,
    /// What it did since boot, or since it came.
    pub total: Disk,
    /// Part of the time since the read before in which a request was under way, thousandths.
    pub busy_milli: Option<i64>,
    /// Requests that were under way in the mean of that time, thousandths: what is over 1000 waited for others.
    pub queue_milli: Option<i64>,
}

/// What was read last, and how that is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosts {
    before: BTreeMap<String, Disk>,
    view: Arc<HostView>,
}

impl Hosts {
    /// Follows what is seen. Where nothing was read anew, what is shown is what was.
    pub(crate) fn follow(&mut self, host: &Host) -> Arc<HostView> {
        if host.at != self.view.at {
            let span = host.at.zip(self.view.at).map(|(now, then)| now.saturating_sub(then));
            let disks = host.disks.iter().map(|(name, total)| {
                let before = self.before.get(name);
                let part = |of: fn(&Disk) -> u64| {
                    let (before, span) = (of(before?), span.filter(|span| *span > 0)?);
                    // A disk that came anew counts from there.
                    let passed = of(total).checked_sub(before)?;
                    i64::try_from(passed / span).ok()
                };
                DiskView {
                    name: name.clone(),
                    total: *total,
                    busy_milli: part(|disk| disk.busy).map(|busy| busy.min(1000)),
                    queue_milli: part(|disk| disk.waited),
                }
            });
            self.view = Arc::new(HostView {
                at: host.at,
                load: host.load,
                paging: host.paging,
                disks: disks.collect(),
            });
            self.before.clone_from(&host.disks);
        }
        Arc::clone(&self.view)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn a_disk_is_as_busy_as_it_was_since_it_was_read_before() {
        let mut hosts = Hosts::default();
        let mut host = Host {
            at: Some(1_000),
            ..Host::default()
        };
        host.disks.insert("vda".to_owned(), Disk::default());
        assert_eq!(
            hosts.follow(&host).disks[0].busy_milli,
            None,
            "nothing is known of before"
        );
        host.at = Some(6_000);
        let disk = host.disks.get_mut("vda").unwrap();
        (disk.busy, disk.waited) = (2_500_000, 15_000_000);
        let view = hosts.follow(&host);
        assert_eq!(
            (view.disks[0].busy_milli, view.disks[0].queue_milli),
            (Some(500), Some(3_000))
        );
        assert_eq!(hosts.follow(&host), view, "not read since");
        // Another of the same name.
        host.at = Some(7_000);
        host.disks.insert("vda".to_owned(), Disk::default());
        assert_eq!(hosts.follow(&host).disks[0].busy_milli, None);
    }
}
