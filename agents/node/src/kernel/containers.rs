//! The cgroups right below a pod's: its containers.

use std::collections::BTreeMap;

use duosuan_cgroup::{Cgroup, Error};

use super::observer::signal;

/// Opens the cgroups right below that are new, and drops those that are gone.
pub(super) fn list(group: &Cgroup, containers: &mut Vec<Cgroup>) -> Result<(), Error> {
    let names = group.children()?;
    let is = |c: &Cgroup, name: &str| c.path().file_name().is_some_and(|n| n == name);
    containers.retain(|c| names.iter().any(|name| is(c, name)));
    for name in &names {
        if !containers.iter().any(|c| is(c, name)) {
            // One that is gone again is none.
            containers.extend(group.child(name));
        }
    }
    Ok(())
}

/// Throttled time of a pod and its containers, and the periods in which that was, unknown where a container cannot be read.
/// One that is gone has them listed again. Where they are asked for, the quotas, microseconds a period, of those that were
/// stopped by theirs, by path.
pub(super) fn throttled(
    own: [Option<u64>; 2],
    pod: &Cgroup,
    containers: &[Cgroup],
    links: &mut u64,
    mut quotas: Option<(&str, &mut BTreeMap<String, u64>)>,
    failed: &mut Vec<Error>,
) -> Result<[Option<u64>; 2], Error> {
    if let Some((path, quotas)) = &mut quotas {
        quotas.clear();
        if own[0].is_some_and(|time| time > 0)
            && let Some(quota) = signal(pod.cpu_max(), failed)?.flatten().and_then(|max| max.quota)
        {
            quotas.insert((*path).to_owned(), quota);
        }
    }
    let (mut sum, mut unread) = (own, false);
    for container in containers {
        let [time, periods] = match container.cpu_stat() {
            Ok(stat) => stat.map(|s| [s.throttled, s.throttled_periods]).unwrap_or_default(),
            Err(error) => {
                *links = 0;
                if !error.is_gone() {
                    // Without it the sum would fall and rise again by all that it ever was.
                    unread = true;
                    failed.push(error);
                }
                continue;
            }
        };
        let Some(time) = time else { continue };
        for (sum, more) in sum.iter_mut().zip([time, periods.unwrap_or(0)]) {
            *sum = Some(sum.unwrap_or(0).saturating_add(more));
        }
        if let Some((path, quotas)) = &mut quotas
            && time > 0
            && let Ok(Some(max)) = container.cpu_max()
            && let Some(quota) = max.quota
        {
            let name = container.path().file_name().unwrap_or_default().to_string_lossy();
            quotas.insert(format!("{path}/{name}"), quota);
        }
    }
    let [time, periods] = sum;
    Ok([time, periods.filter(|_| !unread)])
}
