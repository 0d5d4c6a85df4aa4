//! Where the volumes of a pod let it stand.

use std::collections::BTreeSet;

use duosuan_scheduler::{
    event::{self, NODE_NAME, Operator, Requirement, Term},
    matches_node,
};

use super::{Preparation, Use, Volumes};
use crate::translate::volume::{Class, SELECTED_NODE, Volume, VolumeClaim};

/// Access mode of a volume that one pod alone may use.
pub(super) const ONE_POD: &str = "ReadWriteOncePod";
/// Alternatives of places at most; volumes whose places multiply to more are not written by people.
const ALTERNATIVES: usize = 1024;

impl Volumes {
    /// Where the volumes of a pod without a node let it stand: alternatives of each, of which one has to hold; or why it has
    /// to wait.
    pub(super) fn places(&self, uid: &str, claims: &[Use]) -> Result<Vec<Vec<Term>>, String> {
        let mut places = Vec::new();
        for used in claims {
            let claim = self.usable(used, uid)?;
            match &claim.volume {
                Some(volume) => {
                    let volume = self.volumes.get(volume).ok_or_else(|| {
                        format!(
                            "persistentvolume {volume:?} of persistentvolumeclaim {:?} is not found",
                            claim.name.1
                        )
                    })?;
                    if let Some(broken) = &volume.broken {
                        return Err(format!(
                            "persistentvolume {:?} cannot be understood: {broken}",
                            volume.name
                        ));
                    }
                    places.extend(volume.places.iter().cloned());
                }
                None => places.extend(self.places_to_be(claim)?),
            }
        }
        Ok(places)
    }

    /// A claim that a pod may use, in the words in which kube-scheduler says why it may not.
    pub(super) fn usable(&self, used: &Use, uid: &str) -> Result<&VolumeClaim, String> {
        let name = &used.claim;
        let claim = self.claims.get(name).ok_or_else(|| match used.own {
            true => format!(
                "the persistentvolumeclaim {:?} of an ephemeral volume is not made yet",
                name.1
            ),
            false => format!("persistentvolumeclaim {:?} not found", name.1),
        })?;
        if let Some(broken) = &claim.broken {
            return Err(format!(
                "persistentvolumeclaim {:?} cannot be understood: {broken}",
                name.1
            ));
        }
        if claim.lost {
            return Err(format!(
                "persistentvolumeclaim {:?} bound to non-existent persistentvolume {:?}",
                name.1,
                claim.named.as_deref().unwrap_or_default()
            ));
        }
        if claim.deleting {
            return Err(format!("persistentvolumeclaim {:?} is being deleted", name.1));
        }
        if used.own && claim.owner.as_deref() != Some(uid) {
            return Err(format!(
                "persistentvolumeclaim {:?} was not created for this pod, whose ephemeral volume needs that name",
                name.1
            ));
        }
        if is_for_one_pod(claim) {
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

    /// The class of a claim without a volume, if the claim gets one as soon as its first pod has a node.
    fn waiting_class(&self, claim: &VolumeClaim) -> Result<&Class, String> {
        if let Some(named) = &claim.named {
            return Err(format!(
                "persistentvolumeclaim {:?} names persistentvolume {named:?} and is not bound to it; see the claim's events",
                claim.name.1
            ));
        }
        self.classes.get(&claim.class).filter(|class| class.waits).ok_or_else(|| {
            format!(
                "persistentvolumeclaim {:?} is not bound; its storage class {:?} does not wait for a pod, see the claim's events",
                claim.name.1, claim.class
            )
        })
    }

    /// The node for which the volume of a claim was asked for, by the API server's word or ours.
    fn asked_for<'a>(&'a self, claim: &'a VolumeClaim, class: &Class) -> Result<Option<&'a String>, String> {
        let node = claim.selected_node.as_ref().or_else(|| self.selected.get(&claim.name));
        match node.filter(|_| class.made_by_hand) {
            Some(node) => Err(made_by_nobody(claim, node)),
            None => Ok(node),
        }
    }

    /// Where a claim without a volume can get one; `None` for anywhere.
    fn places_to_be(&self, claim: &VolumeClaim) -> Result<Option<Vec<Term>>, String> {
        let class = self.waiting_class(claim)?;
        if let Some(node) = self.asked_for(claim, class)? {
            let there = Requirement {
                key: NODE_NAME.to_owned(),
                operator: Operator::In,
                values: vec![node.clone()],
            };
            return all_of(&[vec![vec![there]], class.places.clone()]).map(Some);
        }
        let mut places = Vec::new();
        if !class.made_by_hand {
            if class.places.is_empty() {
                return Ok(None);
            }
            places.clone_from(&class.places);
        }
        let mut found = !class.made_by_hand;
        for volume in self.candidates(claim) {
            found = true;
            match all_of(&volume.places)? {
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

    /// Volumes that lie ready for a claim, the smallest first. One that is meant for it is all that it gets.
    fn candidates(&self, claim: &VolumeClaim) -> Vec<&Volume> {
        let of_class = self.of_class.get(&claim.class).into_iter().flatten();
        let of_class = of_class
            .filter_map(|name| self.volumes.get(name))
            .filter(|v| !v.deleting);
        let mut large: Vec<&Volume> = of_class.filter(|v| is_large_enough(v, claim)).collect();
        let meant = |v: &Volume| match (&v.claimed_by, self.given.get(&v.name)) {
            (Some((namespace, name, uid)), _) => {
                (namespace, name) == (&claim.name.0, &claim.name.1) && (uid.is_empty() || *uid == claim.uid)
            }
            (None, to) => to == Some(&claim.name),
        };
        if let Some(meant) = large.iter().copied().find(|v| meant(v)) {
            return vec![meant];
        }
        let free = |v: &Volume| v.available && v.claimed_by.is_none() && !self.given.contains_key(&v.name);
        large.retain(|v| free(v) && suits(v, claim));
        // They are in the order of their names.
        large.sort_by_key(|v| v.has.storage);
        large
    }

    /// Whether the volume that a claim has can be used on a node.
    pub(super) fn stands_bound(&self, claim: &VolumeClaim, bound: &str, node: &event::Node) -> Result<(), String> {
        match self.volumes.get(bound) {
            Some(volume) if reaches(volume, node) => Ok(()),
            _ => Err(format!(
                "persistentvolume {bound:?} of persistentvolumeclaim {:?} cannot be used on node {}",
                claim.name.1, node.name
            )),
        }
    }

    /// What a claim without a volume needs to get one on a node, which is none of those that others of its pod take. Nothing,
    /// if it comes without being asked for again.
    pub(super) fn stands_unbound<'a>(
        &'a self,
        claim: &VolumeClaim,
        node: &event::Node,
        taken: &mut BTreeSet<&'a str>,
    ) -> Result<Option<Preparation>, String> {
        let class = self.waiting_class(claim)?;
        let asked_for = self.asked_for(claim, class)?;
        if let Some(other) = asked_for.filter(|other| **other != node.name) {
            return Err(format!(
                "the volume of persistentvolumeclaim {:?} is being made for node {other}",
                claim.name.1
            ));
        }
        if claim.selected_node.is_some() {
            return Ok(None);
        }
        let mut ready = self.candidates(claim).into_iter();
        if let Some(volume) = ready.find(|v| reaches(v, node) && !taken.contains(v.name.as_str())) {
            taken.insert(&volume.name);
            if volume.claimed_by.as_ref().is_some_and(|(.., uid)| *uid == claim.uid) {
                return Ok(None);
            }
            return Ok(Some(Preparation::Give {
                claim: claim.name.clone(),
                uid: claim.uid.clone(),
                volume: volume.name.clone(),
                version: volume.version.clone(),
            }));
        }
        if class.made_by_hand || !matches_node(&class.places, &node.name, &node.labels) {
            return Err(format!(
                "no free persistentvolume for persistentvolumeclaim {:?} can be used on node {}",
                claim.name.1, node.name
            ));
        }
        Ok(Some(Preparation::Select {
            claim: claim.name.clone(),
            node: node.name.clone(),
        }))
    }
}

/// True if one pod alone may use what a claim stands for.
pub(super) fn is_for_one_pod(claim: &VolumeClaim) -> bool {
    claim.wish.modes.iter().any(|mode| mode == ONE_POD)
}

fn made_by_nobody(claim: &VolumeClaim, node: &str) -> String {
    format!(
        "the volume of persistentvolumeclaim {:?} is to be made for node {node}, and its storage class {:?} makes none: remove \
         the claim's annotation {SELECTED_NODE}",
        claim.name.1, claim.class
    )
}

/// Whether a volume can be used on a node.
fn reaches(volume: &Volume, node: &event::Node) -> bool {
    let here = |terms: &Vec<Term>| matches_node(terms, &node.name, &node.labels);
    volume.places.iter().all(here)
}

/// Whether a volume is of the kind that a claim asks for, and large enough.
fn is_large_enough(volume: &Volume, claim: &VolumeClaim) -> bool {
    let (has, wish) = (&volume.has, &claim.wish);
    has.storage >= wish.storage && has.block == wish.block && has.attributes == wish.attributes
}

/// Whether a volume has what a claim asks for.
fn suits(volume: &Volume, claim: &VolumeClaim) -> bool {
    let (has, wish) = (&volume.has, &claim.wish);
    wish.modes.iter().all(|mode| has.modes.contains(mode))
        && (claim.selector.is_empty()
            || matches_node(std::slice::from_ref(&claim.selector), &volume.name, &volume.labels))
}

/// Alternatives that hold where one of each of the lists does. None at all is anywhere. What is said twice, as by volumes of
/// one zone, holds where it holds once.
pub(super) fn all_of(lists: &[Vec<Term>]) -> Result<Vec<Term>, String> {
    let mut all: Vec<Term> = Vec::new();
    let mut said: Vec<&Vec<Term>> = Vec::new();
    for terms in lists.iter().filter(|terms| !terms.is_empty()) {
        if said.contains(&terms) {
            continue;
        }
        said.push(terms);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> Term {
        vec![Requirement {
            key: "zone".to_owned(),
            operator: Operator::In,
            values: vec![name.to_owned()],
        }]
    }

    #[test]
    fn many_volumes_of_the_same_places_have_the_alternatives_of_one() {
        let places: Vec<Term> = ["a", "b", "c", "d", "e"].map(zone).into();
        assert_eq!(all_of(&vec![places.clone(); 20]), Ok(places.clone()));
        let others: Vec<Term> = ["f", "g"].map(zone).into();
        let both = all_of(&[places.clone(), others, places]);
        assert_eq!(both.map(|terms| terms.len()), Ok(10));
    }
}
