//! Where the volumes of a pod let it stand.

use std::collections::{BTreeMap, BTreeSet};

use duosuan_scheduler::{
    event::{NODE_NAME, Operator, Requirement, Term},
    matches_node,
};

use super::{ATTACHED, Volumes};
use crate::{
    index::Namespaced,
    translate::volume::{Volume, VolumeClaim},
};

/// Access mode of a volume that one pod alone may use.
pub(super) const ONE_POD: &str = "ReadWriteOncePod";
/// Alternatives of places at most; volumes whose places multiply to more are not written by people.
const ALTERNATIVES: usize = 1024;

/// What the volumes of a pod need.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) places: Vec<Vec<Term>>,
    pub(super) attached: BTreeMap<String, i64>,
}

impl Volumes {
    /// Volumes of limited drivers, counted by the resource of their driver.
    pub(super) fn attached(&self, claims: &[Namespaced]) -> BTreeMap<String, i64> {
        let limited = self.limited();
        // A volume that is to be made will be one of its class's driver, and is known by its claim until then.
        let volume = |name: &Namespaced| {
            let claim = self.claims.get(name)?;
            match &claim.volume {
                Some(volume) => self.volumes.get(volume)?.handle.clone(),
                None => {
                    let class = self.classes.get(&claim.class).filter(|c| c.waits && !c.made_by_hand)?;
                    Some((class.provisioner.clone(), format!("{}/{}", name.0, name.1)))
                }
            }
        };
        let handles: BTreeSet<(String, String)> = claims.iter().filter_map(volume).collect();
        let mut attached = BTreeMap::new();
        for (driver, _) in handles {
            if limited.contains(&driver) {
                let count: &mut i64 = attached.entry(format!("{ATTACHED}{driver}")).or_default();
                *count = count.saturating_add(1);
            }
        }
        attached
    }

    /// What the volumes of a pod without a node need, or why it has to wait.
    pub(super) fn needs(&self, uid: &str, claims: &[Namespaced]) -> Result<Needs, String> {
        let mut needs = Needs {
            attached: self.attached(claims),
            places: Vec::new(),
        };
        for name in claims {
            let claim = self.usable(name, uid)?;
            match &claim.volume {
                Some(volume) => {
                    let volume = self.volumes.get(volume).ok_or_else(|| {
                        format!(
                            "persistentvolume {volume:?} of persistentvolumeclaim {:?} is not found",
                            name.1
                        )
                    })?;
                    if let Some(broken) = &volume.broken {
                        return Err(format!(
                            "persistentvolume {:?} cannot be understood: {broken}",
                            volume.name
                        ));
                    }
                    needs.places.extend(volume.places.iter().cloned());
                }
                None => needs.places.extend(self.places_to_be(claim)?),
            }
        }
        Ok(needs)
    }

    /// A claim that a pod may use, in the words in which kube-scheduler says why it may not.
    pub(super) fn usable(&self, name: &Namespaced, uid: &str) -> Result<&VolumeClaim, String> {
        let claim = self.claims.get(name);
        let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {:?} not found", name.1))?;
        if let Some(broken) = &claim.broken {
            return Err(format!(
                "persistentvolumeclaim {:?} cannot be understood: {broken}",
                name.1
            ));
        }
        if claim.deleting {
            return Err(format!("persistentvolumeclaim {:?} is being deleted", name.1));
        }
        if claim.wish.modes.iter().any(|m| m == ONE_POD) {
            let users = self.users.get(name).into_iter().flatten();
            let holder = users
                .filter(|other| *other != uid)
                .filter_map(|other| self.pods.get(other));
            let mut holder = holder
                .filter(|user| (user.pod.node.is_some() || self.placed.contains(&user.pod.uid)) && !user.pod.finished);
            if let Some(user) = holder.next() {
                return Err(format!(
                    "persistentvolumeclaim {:?} is {ONE_POD}, and pod {:?} uses it",
                    name.1, user.pod.name
                ));
            }
        }
        Ok(claim)
    }

    /// Where a claim without a volume can get one.
    fn places_to_be(&self, claim: &VolumeClaim) -> Result<Option<Vec<Term>>, String> {
        let class = self.classes.get(&claim.class).filter(|class| class.waits).ok_or_else(|| {
            format!(
                "persistentvolumeclaim {:?} is not bound; its storage class {:?} does not wait for a pod, see the claim's events",
                claim.name.1, claim.class
            )
        })?;
        if let Some(node) = claim.selected_node.as_ref().or_else(|| self.selected.get(&claim.name)) {
            let there = Requirement {
                key: NODE_NAME.to_owned(),
                operator: Operator::In,
                values: vec![node.clone()],
            };
            return Ok(Some(vec![vec![there]]));
        }
        if !class.made_by_hand {
            return Ok((!class.places.is_empty()).then(|| class.places.clone()));
        }
        let mut places = Vec::new();
        let mut found = false;
        for volume in self.candidates(claim) {
            found = true;
            match all_of(&[], &volume.places)? {
                anywhere if anywhere.is_empty() => return Ok(None),
                some => places.extend(some),
            }
        }
        if !found {
            return Err(format!(
                "no free persistentvolume of class {:?} has {} bytes and the access modes that persistentvolumeclaim {:?} asks for",
                claim.class, claim.wish.storage, claim.name.1
            ));
        }
        places.sort_unstable();
        places.dedup();
        Ok(Some(places))
    }

    /// Volumes that a claim could get, the smallest first.
    pub(super) fn candidates(&self, claim: &VolumeClaim) -> Vec<&Volume> {
        let free = |volume: &&Volume| match (&volume.claimed_by, self.given.get(&volume.name)) {
            (Some((namespace, name, uid)), _) => {
                (namespace, name) == (&claim.name.0, &claim.name.1) && (uid.is_empty() || *uid == claim.uid)
            }
            (None, Some(to)) => *to == claim.name,
            (None, None) => true,
        };
        let mut found: Vec<&Volume> = self
            .volumes
            .values()
            .filter(|v| v.available && v.class == claim.class && suits(v, claim))
            .filter(free)
            .collect();
        found.sort_by_key(|v| (v.claimed_by.is_none(), v.has.storage, v.name.clone()));
        found
    }
}

/// Whether a volume has what a claim asks for.
fn suits(volume: &Volume, claim: &VolumeClaim) -> bool {
    let (has, wish) = (&volume.has, &claim.wish);
    has.storage >= wish.storage
        && has.block == wish.block
        && wish.modes.iter().all(|mode| has.modes.contains(mode))
        && (claim.selector.is_empty()
            || matches_node(std::slice::from_ref(&claim.selector), &volume.name, &volume.labels))
}

/// Alternatives that hold where one of the first and one of each of the others do. None at all is anywhere.
pub(super) fn all_of(first: &[Term], others: &[Vec<Term>]) -> Result<Vec<Term>, String> {
    let mut all = first.to_vec();
    for terms in others.iter().filter(|terms| !terms.is_empty()) {
        if all.is_empty() {
            all.clone_from(terms);
            continue;
        }
        if all.len().saturating_mul(terms.len()) > ALTERNATIVES {
            return Err(format!(
                "the places of its volumes have more than {ALTERNATIVES} alternatives"
            ));
        }
        // A term without requirements matches no node, and neither does it with others.
        let pairs = all.iter().flat_map(|a| terms.iter().map(move |b| (a, b)));
        let joined: Vec<Term> = pairs
            .filter(|(a, b)| !a.is_empty() && !b.is_empty())
            .map(|(a, b)| a.iter().chain(b).cloned().collect())
            .collect();
        all = if joined.is_empty() { vec![Term::new()] } else { joined };
    }
    Ok(all)
}
