//! `/sys/devices/system/cpu`: which CPUs are threads of one core.

use std::path::Path;

use crate::{dir::Cgroup, error::Error};

/// Eight times as many CPUs as a kernel can be built for: a number above is no CPU's.
const MOST: u32 = 8 * 8192;

/// CPUs by physical core, in the order of the first CPU of each; empty where the kernel does not say.
///
/// # Errors
///
/// If it says, and that cannot be read.
pub fn cores(sys: &Path) -> Result<Vec<Vec<u32>>, Error> {
    let cpus = match Cgroup::open(&sys.join("devices/system/cpu")) {
        Ok(cpus) => cpus,
        Err(error) if error.is_gone() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let online = cpus.read("online")?.unwrap_or_default();
    let online = list(&online).ok_or_else(|| cpus.wrong("online", &online, "a list of CPUs"))?;
    let mut cores: Vec<Vec<u32>> = Vec::new();
    for cpu in &online {
        if cores.iter().any(|core| core.contains(cpu)) {
            continue;
        }
        let topology = match cpus.child(&format!("cpu{cpu}/topology")) {
            Ok(topology) => topology,
            Err(error) if error.is_gone() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let file = "thread_siblings_list";
        let text = topology.read(file)?.unwrap_or_default();
        let mut core = list(&text).ok_or_else(|| topology.wrong(file, &text, "a list of CPUs"))?;
        core.retain(|sibling| online.contains(sibling));
        if !core.contains(cpu) {
            return Err(topology.wrong(file, &text, "a list that has the CPU itself"));
        }
        cores.push(core);
    }
    Ok(cores)
}

/// A list of CPUs as the kernel writes it, such as `0-3,8`, in full; `None` if it is none.
pub fn list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last > MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn machine(online: &str, siblings: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let cpus = dir.path().join("devices/system/cpu");
        for (cpu, siblings) in siblings.iter().enumerate() {
            let topology = cpus.join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        std::fs::write(cpus.join("online"), online).unwrap();
        dir
    }

    #[test]
    fn threads_of_a_core_are_found_and_those_that_are_offline_left_out() {
        let dir = machine("0-3\n", &["0,2\n", "1,3\n", "0,2\n", "1,3\n"]);
        assert_eq!(cores(dir.path()).unwrap(), [[0, 2], [1, 3]]);
        let dir = machine("0-2\n", &["0,2\n", "1,3\n", "0,2\n"]);
        assert_eq!(cores(dir.path()).unwrap(), [vec![0, 2], vec![1]]);
    }

    #[test]
    fn a_list_is_taken_as_the_kernel_writes_it_and_not_otherwise() {
        assert_eq!(list("0-1,3,8-9\n"), Some(vec![0, 1, 3, 8, 9]));
        assert_eq!(list("\n"), Some(vec![]));
        for wrong in ["3-1", "0-", "a", "0-4294967295"] {
            assert_eq!(list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn where_the_kernel_says_nothing_there_are_none_and_nonsense_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cores(dir.path()).unwrap(), [[0; 0]; 0]);
        let error = |online, siblings| cores(machine(online, &[siblings]).path()).unwrap_err().to_string();
        assert!(error("few", "0").contains("online: \"few\" is not a list of CPUs"));
        assert!(error("0", "x-y").contains("\"x-y\" is not a list of CPUs"));
        assert!(error("0", "1").contains("is not a list that has the CPU itself"));
    }
}
