//! Which volumes several pods use: a node attaches each of them once. Claims may stand for the same volume, since volumes may
//! have the same handle.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use duosuan_scheduler::event::SharedVolume;

use super::{ATTACHED, Use, Volumes, places::is_for_one_pod};
use crate::index::Namespaced;

/// A driver and its name of a volume.
type Handle = (String, String);

/// What claims stand for.
#[derive(Debug, Default)]
pub(super) struct Handles {
    of: HashMap<Namespaced, Handle>,
    claims: HashMap<Handle, BTreeSet<Namespaced>>,
    /// Claims, by the volume that they name.
    naming: HashMap<String, BTreeSet<Namespaced>>,
}

impl Handles {
    /// Claims that name a volume.
    pub(super) fn naming(&self, volume: &str) -> Vec<Namespaced> {
        self.naming.get(volume).into_iter().flatten().cloned().collect()
    }

    /// All claims that stand for what one does.
    fn same(&self, claim: &Namespaced) -> impl Iterator<Item = &Namespaced> {
        let handle = self.of.get(claim);
        handle.and_then(|handle| self.claims.get(handle)).into_iter().flatten()
    }

    /// Takes a claim away from where it is listed.
    fn remove<K: std::hash::Hash + Eq>(lists: &mut HashMap<K, BTreeSet<Namespaced>>, key: &K, claim: &Namespaced) {
        if let Some(list) = lists.get_mut(key) {
            list.remove(claim);
            if list.is_empty() {
                lists.remove(key);
            }
        }
    }
}

impl Volumes {
    /// What a claim stands for, as kube-scheduler finds it: its volume if that is there, else the one that its class will make.
    fn handle(&self, name: &Namespaced) -> Option<Handle> {
        let claim = self.claims.get(name)?;
        if let Some(volume) = claim.named.as_ref().and_then(|named| self.volumes.get(named)) {
            return volume.handle.clone();
        }
        let class = self.classes.get(&claim.class)?;
        let to_be = format!("to be made for {}/{}", name.0, name.1);
        Some((class.provisioner.clone(), to_be))
    }

    /// A claim names another volume than before; gives the claims whose volumes may count otherwise for that.
    pub(super) fn names(&mut self, name: &Namespaced, before: Option<String>) -> BTreeSet<Namespaced> {
        let now = self.claims.get(name).and_then(|claim| claim.named.clone());
        if before != now {
            if let Some(before) = before {
                Handles::remove(&mut self.handles.naming, &before, name);
            }
            if let Some(now) = now {
                self.handles.naming.entry(now).or_default().insert(name.clone());
            }
        }
        self.found_anew(vec![name.clone()])
    }

    /// Finds anew what some claims stand for; gives those whose volumes may count otherwise for that.
    pub(super) fn found_anew(&mut self, claims: Vec<Namespaced>) -> BTreeSet<Namespaced> {
        let mut touched = BTreeSet::new();
        for claim in claims {
            let handle = self.handle(&claim);
            if self.handles.of.get(&claim) == handle.as_ref() {
                continue;
            }
            touched.extend(self.handles.same(&claim).cloned());
            if let Some(old) = self.handles.of.remove(&claim) {
                Handles::remove(&mut self.handles.claims, &old, &claim);
            }
            if let Some(handle) = handle {
                self.handles.of.insert(claim.clone(), handle.clone());
                self.handles.claims.entry(handle).or_default().insert(claim.clone());
            }
            touched.extend(self.handles.same(&claim).cloned());
        }
        touched
    }

    /// Pods, by UID, that the core may have to see otherwise since one with some claims came, left or got a node: those that want
    /// a claim for themselves, and those that were alone with what a claim stands for, or are now. Whatever more pods share
    /// stays shared.
    pub(super) fn touched(&self, claims: &[Namespaced]) -> BTreeSet<String> {
        let for_one = |claim: &&Namespaced| self.claims.get(*claim).is_some_and(is_for_one_pod);
        let mut uids = self.users_of(claims.iter().filter(for_one));
        for handle in claims.iter().filter_map(|claim| self.handles.of.get(claim)) {
            let users = self.some_users(handle, 3);
            if users.len() <= 2 {
                uids.extend(users.into_iter().cloned());
            }
        }
        uids
    }

    /// Volumes of limited drivers: how many the pod alone uses, by the resource of their driver, and those that others use,
    /// too.
    pub(super) fn attached(&self, claims: &[Use]) -> (BTreeMap<String, i64>, Vec<SharedVolume>) {
        let handles = claims.iter().filter_map(|used| self.handles.of.get(&used.claim));
        let handles: BTreeSet<&Handle> = handles
            .filter(|(driver, _)| self.limited.contains_key(driver))
            .collect();
        let (mut alone, mut shared) = (BTreeMap::new(), Vec::new());
        for handle in handles {
            let (driver, name) = handle;
            let resource = format!("{ATTACHED}{driver}");
            if self.is_shared(handle) {
                let name = format!("{driver}/{name}");
                shared.push(SharedVolume { name, resource });
            } else {
                *alone.entry(resource).or_insert(0) += 1;
            }
        }
        (alone, shared)
    }

    /// True if more than one pod uses it.
    fn is_shared(&self, handle: &Handle) -> bool {
        self.some_users(handle, 2).len() == 2
    }

    /// Pods that use it, up to so many.
    fn some_users(&self, handle: &Handle, most: usize) -> BTreeSet<&String> {
        let claims = self.handles.claims.get(handle).into_iter().flatten();
        let mut users = BTreeSet::new();
        for user in claims.filter_map(|claim| self.users.get(claim)).flatten() {
            users.insert(user);
            if users.len() == most {
                break;
            }
        }
        users
    }
}
