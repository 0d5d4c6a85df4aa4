//! Persistent volumes: where a pod's volumes let it stand, how many more a node can attach, and what has to be asked for
//! once the pod has a place. The core sees node affinity and amounts only; everything of storage is here. Pure.
//!
//! A volume that several pods use counts once on each node, as kube-scheduler counts it: the core is told which it is. What
//! one pod alone uses is told as a mere number, so that pods which differ in the names of their volumes alone stay alike.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use duosuan_scheduler::event;

use crate::{
    index::Namespaced,
    translate::{
        placement::ClaimUse,
        volume::{Attachable, Class, Volume, VolumeClaim},
    },
};

mod places;
mod sharing;

use places::all_of;
use sharing::Handles;

/// Prefix of the resource that counts the volumes of a CSI driver on a node.
pub(crate) const ATTACHED: &str = "attachable-volumes-csi-";
/// What a node without a limit can attach: no number of pods comes near it, and no sum of it over nodes overflows.
const UNLIMITED: i64 = 1 << 40;

/// Something to ask for, so that the volumes of a pod with a place come into being there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// Have the class make the claim's volume for the node.
    Select {
        /// The claim.
        claim: Namespaced,
        /// The node.
        node: String,
    },
    /// Give an existing volume to the claim.
    Give {
        /// The claim.
        claim: Namespaced,
        /// Its UID.
        uid: String,
        /// Name of the volume.
        volume: String,
        /// Its version as it was seen free.
        version: String,
    },
}

/// How the volumes of a pod stand on the node that it is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    /// All are bound and can be used there.
    Ready,
    /// These have to be asked for.
    Wanting(Vec<Preparation>),
    /// All that there is to ask for is asked for, and not there yet.
    Waiting,
    /// They cannot be used there; why.
    Impossible(String),
}

/// Storage, and the pods that use it.
#[derive(Debug, Default)]
pub struct Volumes {
    claims: BTreeMap<Namespaced, VolumeClaim>,
    volumes: BTreeMap<String, Volume>,
    /// Names of volumes by their class.
    of_class: BTreeMap<String, BTreeSet<String>>,
    classes: BTreeMap<String, Class>,
    limits: BTreeMap<String, Attachable>,
    /// Drivers of which some nodes have a limit, with how many.
    limited: BTreeMap<String, u32>,
    handles: Handles,
    /// Pods with claims, as they were read, by UID.
    pods: HashMap<String, User>,
    users: BTreeMap<Namespaced, BTreeSet<String>>,
    /// Volumes that were given to a claim of which the API server does not say so yet.
    given: BTreeMap<String, Namespaced>,
    /// Nodes for which the volume of a claim was asked for, of which the API server does not say so yet.
    selected: BTreeMap<Namespaced, String>,
    /// Pods, by UID, that get a node, of which the API server does not say so yet.
    placed: BTreeSet<String>,
}

#[derive(Debug)]
struct User {
    pod: event::Pod,
    claims: Vec<Use>,
    /// What the core was told last.
    told: event::Pod,
}

/// A claim that a pod uses.
#[derive(Clone, Debug)]
struct Use {
    claim: Namespaced,
    /// It has to be the pod's own.
    own: bool,
}

impl Volumes {
    /// Takes in a pod with the claims that it names; gives the pod as the core shall see it.
    pub fn pod(&mut self, pod: event::Pod, claims: &[ClaimUse]) -> event::Pod {
        let placed = self.placed.contains(&pod.uid) && pod.node.is_none();
        self.pod_gone(&pod.uid);
        if claims.is_empty() {
            return pod;
        }
        if placed {
            self.placed.insert(pod.uid.clone());
        }
        let of = |c: &ClaimUse| Use {
            claim: (pod.namespace.clone(), c.name.clone()),
            own: c.own,
        };
        let claims: Vec<Use> = claims.iter().map(of).collect();
        for used in &claims {
            self.users
                .entry(used.claim.clone())
                .or_default()
                .insert(pod.uid.clone());
        }
        let told = self.seen(&pod, &claims);
        let user = User {
            claims,
            told: told.clone(),
            pod,
        };
        self.pods.insert(user.pod.uid.clone(), user);
        told
    }

    /// A pod is gone, or needs its volumes no more; gives the pods that the core shall see anew.
    pub fn left(&mut self, uid: &str) -> Vec<event::Pod> {
        let claims = self.claims_of(uid);
        self.pod_gone(uid);
        let uids = self.touched(&claims);
        self.anew(uids)
    }

    fn claims_of(&self, uid: &str) -> Vec<Namespaced> {
        let claims = self.pods.get(uid).into_iter().flat_map(|user| &user.claims);
        claims.map(|used| used.claim.clone()).collect()
    }

    fn users_of<'a>(&self, claims: impl IntoIterator<Item = &'a Namespaced>) -> BTreeSet<String> {
        let users = claims.into_iter().filter_map(|claim| self.users.get(claim));
        users.flatten().cloned().collect()
    }

    fn pod_gone(&mut self, uid: &str) {
        self.placed.remove(uid);
        let Some(user) = self.pods.remove(uid) else { return };
        for Use { claim, .. } in user.claims {
            if let Some(users) = self.users.get_mut(&claim) {
                users.remove(uid);
                if users.is_empty() {
                    self.users.remove(&claim);
                }
            }
        }
    }

    /// The others that the core shall see anew since a pod with some claims was taken in.
    pub fn others(&mut self, claims: &[ClaimUse], namespace: &str, uid: &str) -> Vec<event::Pod> {
        let claims = claims.iter().map(|c| (namespace.to_owned(), c.name.clone()));
        let mut uids = self.touched(&claims.collect::<Vec<_>>());
        uids.remove(uid);
        self.anew(uids)
    }

    /// A claim is there, or gone; gives the pods that the core shall see anew.
    pub fn claim(&mut self, name: Namespaced, claim: Option<VolumeClaim>) -> Vec<event::Pod> {
        let before = match claim {
            Some(claim) => self.claims.insert(name.clone(), claim),
            None => self.claims.remove(&name),
        };
        let mut touched = self.names(&name, before.and_then(|claim| claim.named));
        self.given
            .retain(|_, to| *to != name || self.claims.get(to).is_some_and(|c| c.volume.is_none()));
        let said = |c: &VolumeClaim| c.volume.is_some() || c.selected_node.is_some();
        if self.claims.get(&name).is_none_or(said) {
            self.selected.remove(&name);
        }
        touched.insert(name);
        let users = self.users_of(&touched);
        self.anew(users)
    }

    /// A volume is there, or gone; gives the pods that the core shall see anew.
    pub fn volume(&mut self, name: String, volume: Option<Volume>) -> Vec<event::Pod> {
        let claimed = volume.as_ref().is_none_or(|v| v.claimed_by.is_some());
        if claimed {
            self.given.remove(&name);
        }
        let class = volume.as_ref().map(|volume| volume.class.clone());
        let before = match volume {
            Some(volume) => self.volumes.insert(name.clone(), volume),
            None => self.volumes.remove(&name),
        };
        let before = before.map(|volume| volume.class);
        if before != class {
            if let Some(of_class) = before.as_ref().and_then(|class| self.of_class.get_mut(class)) {
                of_class.remove(&name);
            }
            if let Some(class) = class.clone() {
                self.of_class.entry(class).or_default().insert(name.clone());
            }
        }
        let naming = self.handles.naming(&name);
        let mut touched = self.found_anew(naming.clone());
        touched.extend(naming);
        let classes = [before, class];
        self.anew_where(touched, |claim| {
            claim.volume.is_none() && classes.iter().flatten().any(|class| *class == claim.class)
        })
    }

    /// A class is there, or gone; gives the pods that the core shall see anew.
    pub fn class(&mut self, name: String, class: Option<Class>) -> Vec<event::Pod> {
        match class {
            Some(class) => drop(self.classes.insert(name.clone(), class)),
            None => drop(self.classes.remove(&name)),
        }
        let of_class = self.claims.iter().filter(|(_, claim)| claim.class == name);
        let of_class = of_class.map(|(name, _)| name.clone()).collect();
        let touched = self.found_anew(of_class);
        self.anew_where(touched, |claim| claim.volume.is_none() && claim.class == name)
    }

    /// What a node can attach is known, or is not any more; gives the pods that the core shall see anew, and whether
    /// every node is to be seen anew and not only this one.
    pub fn attachable(&mut self, node: &str, attachable: Option<Attachable>) -> (Vec<event::Pod>, bool) {
        let mut others = false;
        for driver in attachable.iter().flat_map(|a| a.most.keys()) {
            let nodes = self.limited.entry(driver.clone()).or_insert(0);
            *nodes += 1;
            others |= *nodes == 1;
        }
        let before = match attachable {
            Some(attachable) => self.limits.insert(node.to_owned(), attachable),
            None => self.limits.remove(node),
        };
        for driver in before.iter().flat_map(|a| a.most.keys()) {
            let Some(nodes) = self.limited.get_mut(driver) else {
                continue;
            };
            *nodes -= 1;
            if *nodes == 0 {
                self.limited.remove(driver);
                others = true;
            }
        }
        if !others {
            return (Vec::new(), false);
        }
        (self.anew(self.pods.keys().cloned().collect()), true)
    }

    /// What a node can attach, by resource.
    pub fn limits(&self, node: &str) -> Vec<(String, i64)> {
        let own = self.limits.get(node);
        let most = |driver: &String| own.and_then(|a| a.most.get(driver)).copied().unwrap_or(UNLIMITED);
        self.limited
            .keys()
            .map(|driver| (format!("{ATTACHED}{driver}"), most(driver).max(0)))
            .collect()
    }

    /// Of the pods with one of some claims, or with one that it touches, those that the core shall see otherwise.
    fn anew_where(&mut self, claims: BTreeSet<Namespaced>, touches: impl Fn(&VolumeClaim) -> bool) -> Vec<event::Pod> {
        let touched = self
            .users
            .iter()
            .filter(|(name, _)| claims.contains(*name) || self.claims.get(*name).is_some_and(&touches));
        let uids = touched.flat_map(|(_, users)| users.iter().cloned()).collect();
        self.anew(uids)
    }

    /// Of these pods those that the core shall see otherwise than it does.
    fn anew(&mut self, uids: BTreeSet<String>) -> Vec<event::Pod> {
        let mut changed = Vec::new();
        for uid in uids {
            let Some(user) = self.pods.get(&uid) else { continue };
            let seen = self.seen(&user.pod, &user.claims);
            if let Some(user) = self.pods.get_mut(&uid).filter(|user| user.told != seen) {
                user.told = seen.clone();
                changed.push(seen);
            }
        }
        changed
    }

    /// A pod as the core shall see it.
    fn seen(&self, pod: &event::Pod, claims: &[Use]) -> event::Pod {
        let mut seen = pod.clone();
        let (alone, shared) = self.attached(claims);
        for (resource, amount) in alone {
            let sum = seen.requests.entry(resource).or_default();
            *sum = sum.saturating_add(amount);
        }
        seen.shared_volumes = shared;
        if pod.node.is_some() {
            return seen;
        }
        match self.places(&pod.uid, claims).and_then(|places| all_of(&places)) {
            Ok(terms) => seen.volume_terms = terms,
            Err(why) => {
                seen.refused.get_or_insert(why);
            }
        }
        seen
    }

    /// How the volumes of a pod stand on a node.
    pub fn stand(&self, uid: &str, node: &event::Node) -> Stand {
        let Some(user) = self.pods.get(uid) else {
            return Stand::Ready;
        };
        let mut used = Vec::new();
        for one in &user.claims {
            match self.usable(one, uid) {
                Ok(claim) => used.push(claim),
                Err(why) => return Stand::Impossible(why),
            }
        }
        // Whoever asks for least takes the smallest first, as in kube-scheduler.
        used.sort_by_key(|claim| claim.wish.storage);
        let mut wanting = Vec::new();
        let mut waiting = false;
        let mut taken = BTreeSet::new();
        for claim in used {
            let wanted = match &claim.volume {
                Some(bound) => self.stands_bound(claim, bound, node).map(|()| None),
                None => self.stands_unbound(claim, node, &mut taken).inspect(|wanted| {
                    waiting |= wanted.is_none();
                }),
            };
            match wanted {
                Ok(wanted) => wanting.extend(wanted),
                Err(why) => return Stand::Impossible(why),
            }
        }
        match (wanting.is_empty(), waiting) {
            (false, _) => Stand::Wanting(wanting),
            (true, true) => Stand::Waiting,
            (true, false) => Stand::Ready,
        }
    }

    /// A pod is bound to a node, with devices and a NUMA node there, where all that it asks for comes into being at once;
    /// gives the other pods that the core shall see anew.
    ///
    /// # Errors
    ///
    /// If its volumes cannot be used there: why.
    pub fn bind(
        &mut self,
        uid: &str,
        node: &event::Node,
        devices: &[u16],
        numa: Option<u16>,
    ) -> Result<Vec<event::Pod>, String> {
        let given = match self.stand(uid, node) {
            Stand::Impossible(why) => return Err(why),
            Stand::Wanting(preparations) => preparations,
            Stand::Ready | Stand::Waiting => Vec::new(),
        };
        self.give(&given);
        let Some(user) = self.pods.get(uid) else {
            return Ok(Vec::new());
        };
        let (used, mut pod) = (user.claims.clone(), user.pod.clone());
        let claims: Vec<Namespaced> = used.iter().map(|used| used.claim.clone()).collect();
        pod.node = Some(node.name.clone());
        pod.devices = devices.to_vec();
        pod.numa = numa;
        // Whoever binds it tells the core of it.
        let told = self.seen(&pod, &used);
        if let Some(user) = self.pods.get_mut(uid) {
            (user.pod, user.told) = (pod, told);
        }
        let mut uids = self.touched(&claims);
        if !given.is_empty() {
            // What was free for several is so no more.
            let open = |name: &Namespaced| self.claims.get(name).is_some_and(|claim| claim.volume.is_none());
            let waiting = self.users.iter().filter(|(name, _)| open(name));
            uids.extend(waiting.flat_map(|(_, users)| users.iter().cloned()));
        }
        uids.remove(uid);
        Ok(self.anew(uids))
    }

    /// A pod gets a node: what is for one pod alone, others do not get.
    pub fn placed(&mut self, uid: &str) {
        if self.pods.contains_key(uid) {
            self.placed.insert(uid.to_owned());
        }
    }

    /// A pod does not get the node that it was to get.
    pub fn unplaced(&mut self, uid: &str) {
        self.placed.remove(uid);
    }

    /// Volumes are given to claims, and asked for on nodes: nobody else gets them, and nobody asks for them elsewhere.
    pub fn give(&mut self, preparations: &[Preparation]) {
        for preparation in preparations {
            match preparation {
                Preparation::Give { claim, volume, .. } => drop(self.given.insert(volume.clone(), claim.clone())),
                Preparation::Select { claim, node } => drop(self.selected.insert(claim.clone(), node.clone())),
            }
        }
    }

    /// What was given and asked for is so no more.
    pub fn take_back(&mut self, preparations: &[Preparation]) {
        for preparation in preparations {
            match preparation {
                Preparation::Give { volume, .. } => drop(self.given.remove(volume)),
                Preparation::Select { claim, .. } => drop(self.selected.remove(claim)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
