//! Who counts for whom: pods by namespace and labels, the terms that speak of them, and how many pods of each term sit
//! on each node. All of it is kept as pods come and go; nothing is found by looking at other pods.

mod lookup;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use lookup::Lookup;

use crate::{
    event,
    index::Look,
    intern::{Counted, Fresh},
    model::{
        Labels, Model, PodSlot, Shape,
        rules::{Check, Compiled, Effect, Mark, Namespaces, Peers, Rule},
    },
    slab::{HitsOrd, IdentityOrd, MarkOrd, PodOrd, ShapeOrd},
};

/// What terms look at in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) namespace: Arc<str>,
    pub(crate) labels: Labels,
}

/// What is known of the pods of an identity.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// Marks that count them, ascending.
    matching: Vec<MarkOrd>,
    /// How many of them have a seat.
    seated: u32,
    /// Terms of others that speak of them, as of a version.
    hits: Option<HitsOrd>,
    version: u64,
}

/// Marks and identities.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    marks: Fresh<MarkOrd, Mark>,
    matching: Lookup,
    having: Lookup,
    identities: Counted<IdentityOrd, Identity>,
    /// Those of each namespace.
    by_namespace: HashMap<Arc<str>, BTreeSet<IdentityOrd>>,
    /// By identity.
    standing: Vec<Standing>,
    hits: Fresh<HitsOrd, Vec<MarkOrd>>,
    namespaces: Namespaces,
    /// Grows when the marks that pods have, or namespaces, change.
    version: u64,
    /// Rules of the shapes that have some.
    compiled: HashMap<ShapeOrd, Arc<Compiled>>,
}

impl Marks {
    /// Grows when what pods ask of others changes.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The identity of a pod, counted once more.
    fn acquire_identity(&mut self, namespace: &str, labels: &BTreeMap<String, String>) -> IdentityOrd {
        let known = self.by_namespace.get_key_value(namespace);
        let namespace: Arc<str> = known.map_or_else(|| namespace.into(), |(known, _)| known.clone());
        let ord = self.identities.acquire(Identity {
            namespace: namespace.clone(),
            labels: Labels::of(labels),
        });
        if self.identities.references(ord) == 1 {
            let standing = Standing {
                matching: self.found(&self.matching, self.identities.value(ord), true),
                ..Default::default()
            };
            self.by_namespace.entry(namespace).or_default().insert(ord);
            if ord.index() >= self.standing.len() {
                self.standing.resize(ord.index() + 1, Standing::default());
            }
            if let Some(slot) = self.standing.get_mut(ord.index()) {
                *slot = standing;
            }
        }
        ord
    }

    fn release_identity(&mut self, ord: IdentityOrd) {
        if self.identities.references(ord) == 1 {
            let namespace = &self.identities.value(ord).namespace;
            if let Some(theirs) = self.by_namespace.get_mut(namespace) {
                theirs.remove(&ord);
                if theirs.is_empty() {
                    self.by_namespace.remove(namespace);
                }
            }
        }
        if self.identities.release(ord)
            && let Some(gone) = self.standing.get_mut(ord.index()).map(std::mem::take)
            && let Some(hits) = gone.hits
        {
            self.hits.release(hits);
        }
    }

    /// The identities that a mark may speak of: those of the namespaces that it names, if it names them.
    fn candidates(&self, mark: &Mark) -> Vec<IdentityOrd> {
        let named = mark.peers().iter().find_map(Peers::only_namespaces);
        match named {
            Some(named) => {
                let theirs = named.iter().filter_map(|name| self.by_namespace.get(name.as_str()));
                theirs.flatten().copied().collect()
            }
            None => self.identities.iter().map(|(identity, _)| identity).collect(),
        }
    }

    /// Namespace and labels.
    pub(crate) fn identity(&self, ord: IdentityOrd) -> &Identity {
        self.identities.value(ord)
    }

    fn found(&self, among: &Lookup, identity: &Identity, own: bool) -> Vec<MarkOrd> {
        let speaks = |mark: &MarkOrd| {
            self.marks
                .value(*mark)
                .is_some_and(|mark| self.speaks_of(mark, identity, own))
        };
        let mut found: Vec<MarkOrd> = among.near(&identity.labels).filter(speaks).collect();
        found.sort_unstable();
        found
    }

    fn speaks_of(&self, mark: &Mark, identity: &Identity, own: bool) -> bool {
        mark.peers()
            .iter()
            .all(|peers| peers.include(&identity.namespace, &identity.labels, &self.namespaces, own))
    }

    /// What a mark counts.
    pub(crate) fn mark(&self, ord: MarkOrd) -> Option<&Mark> {
        self.marks.value(ord).map(|mark| &**mark)
    }

    /// Terms of others that speak of a pod, by ordinal.
    pub(crate) fn hits(&self, hits: Option<HitsOrd>) -> &[MarkOrd] {
        hits.and_then(|hits| self.hits.value(hits)).map_or(&[], |h| h)
    }

    /// The rules of a shape.
    pub(crate) fn compiled(&self, shape: ShapeOrd) -> Option<&Compiled> {
        self.compiled.get(&shape).map(|c| &**c)
    }

    /// Terms of others that speak of the pods of an identity.
    pub(crate) fn find_hits(&self, ord: IdentityOrd) -> Vec<MarkOrd> {
        self.found(&self.having, self.identities.value(ord), false)
    }

    fn hits_of(&mut self, ord: IdentityOrd) -> Option<HitsOrd> {
        let version = self.version;
        match self.standing.get(ord.index()) {
            Some(standing) if standing.version != version => {}
            standing => return standing.and_then(|s| s.hits),
        }
        let found = self.find_hits(ord);
        let new = (!found.is_empty()).then(|| self.hits.acquire(found).0);
        let standing = self.standing.get_mut(ord.index())?;
        standing.version = version;
        if let Some(old) = std::mem::replace(&mut standing.hits, new) {
            self.hits.release(old);
        }
        new
    }

    /// True if a term that is asked about for a pod that is to be placed speaks of the pods of an identity.
    pub(crate) fn includes(&self, peers: &Peers, ord: IdentityOrd) -> bool {
        let identity = self.identity(ord);
        peers.include(&identity.namespace, &identity.labels, &self.namespaces, true)
    }

    /// Marks that count the pods of an identity.
    pub(crate) fn counting(&self, ord: IdentityOrd) -> &[MarkOrd] {
        self.standing.get(ord.index()).map_or(&[], |s| &s.matching)
    }

    /// Nothing is left of anybody.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.marks.len() == 0 && self.identities.len() == 0 && self.hits.len() == 0 && self.compiled.is_empty()
    }
}

impl Model {
    /// The identity of a pod as it comes from outside, counted once more.
    pub(crate) fn identity_of(&mut self, pod: &event::Pod) -> IdentityOrd {
        self.marks.acquire_identity(&pod.namespace, &pod.labels)
    }

    /// One reference less to an identity.
    pub(crate) fn let_go_of_identity(&mut self, ord: IdentityOrd) {
        self.marks.release_identity(ord);
    }

    /// Everything that placement looks at in a pod now.
    pub(crate) fn look(&mut self, pod: PodOrd) -> Look {
        let PodSlot {
            shape,
            identity,
            template,
            ..
        } = self.pods[pod];
        let hits = self.marks.hits_of(identity);
        let own = self.own(shape, identity);
        let wanted = if self.images.are_held() {
            self.images.wanted(template, &self.templates.value(template).images)
        } else {
            None
        };
        Look {
            shape,
            hits,
            own,
            wanted,
        }
    }

    /// Which of its own rules a pod matches itself.
    pub(crate) fn own(&self, shape: ShapeOrd, identity: IdentityOrd) -> u64 {
        self.shapes.value(shape).rules.as_ref().map_or(0, |rules| {
            let identity = self.marks.identity(identity);
            rules.of_oneself(&identity.namespace, &identity.labels, &self.marks.namespaces)
        })
    }

    /// What is to be checked for a pod: its own rules, then those that others have about it.
    pub(crate) fn checks(&self, shape: ShapeOrd, hits: &[MarkOrd]) -> Vec<Check> {
        let own = self.marks.compiled(shape).map(|c| c.checks.as_slice());
        let mut checks = own.unwrap_or_default().to_vec();
        for &mark in hits {
            if let Some(Mark::Has(key, _, effect)) = self.marks.mark(mark) {
                let rule = match effect {
                    Effect::Repel => Rule::Kept,
                    Effect::Wish(weight) => Rule::Wish(*weight),
                };
                checks.push(Check {
                    mark: Some(mark),
                    key: *key,
                    rule,
                });
            }
        }
        checks
    }

    /// One reference more to a shape.
    pub(crate) fn acquire_shape(&mut self, shape: Shape) -> ShapeOrd {
        let ord = self.shapes.acquire(shape);
        let Some(rules) = self.shapes.value(ord).rules.clone() else {
            return ord;
        };
        if self.marks.compiled.contains_key(&ord) {
            return ord;
        }
        let mut compiled = Compiled::default();
        for (mark, key, rule) in rules.matching() {
            let key = self.topology_key(key);
            let mark = mark.map(|mark| self.acquire_mark(mark));
            compiled.checks.push(Check { mark, key, rule });
        }
        for (key, peers, effect) in rules.having() {
            let key = self.topology_key(key);
            let mark = self.acquire_mark(Mark::Has(key, peers, effect));
            compiled.has.push(mark);
        }
        self.marks.compiled.insert(ord, Arc::new(compiled));
        ord
    }

    /// One reference less to a shape.
    pub(crate) fn let_go_of_shape(&mut self, shape: ShapeOrd) {
        if !self.shapes.release(shape) {
            return;
        }
        self.dead_shapes.push(shape);
        if let Some(gone) = self.marks.compiled.remove(&shape) {
            let marks = gone
                .checks
                .iter()
                .filter_map(|check| check.mark)
                .chain(gone.has.iter().copied());
            for mark in marks {
                self.release_mark(mark);
            }
        }
    }

    fn acquire_mark(&mut self, mark: Mark) -> MarkOrd {
        let (ord, new) = self.marks.marks.acquire(mark);
        if !new {
            return ord;
        }
        let Some(mark) = self.marks.marks.value(ord).cloned() else {
            return ord;
        };
        if mark.is_had() {
            self.marks.having.change(&mark, |marks| marks.push(ord));
            self.marks.version += 1;
            return ord;
        }
        self.marks.matching.change(&mark, |marks| marks.push(ord));
        let mut spoken_of = self.marks.candidates(&mark);
        spoken_of.retain(|&identity| self.marks.speaks_of(&mark, self.marks.identity(identity), true));
        let mut seated = 0;
        for identity in spoken_of {
            if let Some(standing) = self.marks.standing.get_mut(identity.index()) {
                // A new ordinal is larger than all before it.
                standing.matching.push(ord);
                seated += standing.seated;
            }
        }
        if seated > 0 {
            self.count_seated(ord, &mark);
        }
        ord
    }

    /// Counts those who were there before the mark. A pod whose shape is being found has a seat that does not count yet.
    fn count_seated(&mut self, ord: MarkOrd, mark: &Mark) {
        for (there, pod) in self.pods.iter() {
            let Some(seat) = pod
                .place
                .seat()
                .filter(|seat| self.nodes[seat.node].pods.contains(&there))
            else {
                continue;
            };
            let standing = self.marks.standing.get(pod.identity.index());
            let counts = standing.is_some_and(|s| s.matching.contains(&ord))
                && !(pod.terminating && matches!(mark, Mark::Living(_)));
            if counts {
                self.nodes[seat.node].mark(ord, true);
            }
        }
    }

    fn release_mark(&mut self, ord: MarkOrd) {
        let Some(gone) = self.marks.marks.release(ord) else {
            return;
        };
        if gone.is_had() {
            self.marks.having.change(&gone, |marks| marks.retain(|m| *m != ord));
            self.marks.version += 1;
            return;
        }
        self.marks.matching.change(&gone, |marks| marks.retain(|m| *m != ord));
        let mut seated = 0;
        for identity in self.marks.candidates(&gone) {
            if let Some(standing) = self.marks.standing.get_mut(identity.index())
                && standing.matching.contains(&ord)
            {
                standing.matching.retain(|m| *m != ord);
                seated += standing.seated;
            }
        }
        if seated == 0 {
            return;
        }
        let nodes: Vec<_> = self.nodes.iter().map(|(node, _)| node).collect();
        for node in nodes {
            self.nodes[node].marks.remove(&ord);
        }
    }

    /// Counts a pod's marks on its node, in or out.
    pub(crate) fn count_marks(&mut self, ord: PodOrd, shape: &Shape, hold: bool) {
        let pod = &self.pods[ord];
        let Some(seat) = pod.place.seat() else { return };
        let node = &mut self.nodes[seat.node];
        if let Some(standing) = self.marks.standing.get_mut(pod.identity.index()) {
            standing.seated = if hold {
                standing.seated + 1
            } else {
                standing.seated.saturating_sub(1)
            };
            for &mark in &standing.matching {
                let living = || matches!(self.marks.marks.value(mark).map(|m| &**m), Some(Mark::Living(_)));
                if !(pod.terminating && living()) {
                    node.mark(mark, hold);
                }
            }
        }
        if shape.rules.is_some()
            && let Some(compiled) = self.marks.compiled.get(&pod.shape)
        {
            for &mark in &compiled.has {
                node.mark(mark, hold);
            }
        }
    }

    /// Takes in a namespace; `None` for one that is gone.
    pub(crate) fn apply_namespace(&mut self, name: &str, labels: Option<&BTreeMap<String, String>>) {
        if self.marks.namespaces.get(name) == labels {
            return;
        }
        match labels {
            Some(labels) => drop(self.marks.namespaces.insert(name.to_owned(), labels.clone())),
            None => drop(self.marks.namespaces.remove(name)),
        }
        self.marks.version += 1;
        self.freed += 1;
        self.count_namespace_anew(name);
    }

    /// What the marks count of the pods of a namespace, after its labels changed.
    fn count_namespace_anew(&mut self, name: &str) {
        let theirs: Vec<IdentityOrd> = self
            .marks
            .by_namespace
            .get(name)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        let mut changed = false;
        let mut after = Vec::with_capacity(theirs.len());
        for &identity in &theirs {
            let found = self
                .marks
                .found(&self.marks.matching, self.marks.identities.value(identity), true);
            changed |= self
                .marks
                .standing
                .get(identity.index())
                .is_some_and(|s| s.matching != found);
            after.push(found);
        }
        if !changed {
            return;
        }
        let pods: Vec<PodOrd> = self
            .pods
            .iter()
            .filter(|(_, pod)| *pod.namespace == *name && pod.place.seat().is_some())
            .map(|(pod, _)| pod)
            .collect();
        for &pod in &pods {
            self.release(pod);
        }
        for (identity, found) in theirs.into_iter().zip(after) {
            if let Some(standing) = self.marks.standing.get_mut(identity.index()) {
                standing.matching = found;
            }
        }
        for &pod in &pods {
            self.hold(pod);
        }
    }

    /// What is counted on a node of one pod, anew: for the invariants.
    pub(crate) fn marks_of(&self, pod: &PodSlot) -> Vec<MarkOrd> {
        let identity = self.marks.identities.value(pod.identity);
        let mut marks = self.marks.found(&self.marks.matching, identity, true);
        marks.retain(|&m| !(pod.terminating && matches!(self.marks.mark(m), Some(Mark::Living(_)))));
        marks.extend(self.marks.compiled(pod.shape).iter().flat_map(|c| c.has.iter()));
        marks
    }
}
