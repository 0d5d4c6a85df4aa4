//! Shapes: all that placement looks at in a pod. Pods of equal shape are interchangeable.

use std::sync::Arc;

use crate::{
    amount::{Amount, Amounts},
    decision::Reason,
    event::{self, GpuRequest, PreferredNodes, Term, Tier, Toleration},
    model::{ClaimNeed, Model, ports::HostPort, rules::Rules, volumes::Volume},
    slab::{ModelOrd, PodOrd, ResourceOrd, ShapeOrd, TemplateOrd},
};

/// Alternatives at most when those of a pod are joined with those of its group: more is not written by people.
const ALTERNATIVES: usize = 1024;

/// What a pod says of itself, before its group adds to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Template {
    pub(crate) requests: Amounts,
    pub(crate) gpus: Option<GpuRequest>,
    pub(crate) terms: Vec<Term>,
    /// In order.
    pub(crate) preferred: Vec<PreferredNodes>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) ports: Vec<HostPort>,
    /// Where its volumes can be used.
    pub(crate) volume_terms: Vec<Term>,
    /// Those that others use as well, in the order of their names.
    pub(crate) volumes: Vec<Volume>,
    /// What it asks of other pods' places.
    pub(crate) rules: Option<Arc<Rules>>,
    /// Names of its images. What is held of them somewhere is part of a look, and not of a shape.
    pub(crate) images: Vec<String>,
}

/// All that placement looks at, besides what other pods and images make of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// The tier of what it requests, to whose quotas it is charged. No pod is placed of which this is another than its
    /// own.
    pub(crate) tier: Tier,
    /// On the node: what the pod requests, and one of `pods`. In the order of names.
    pub(crate) requests: Amounts,
    /// In quotas, by the names used there. In the order of names.
    pub(crate) ask: Amounts,
    pub(crate) gpus: Option<GpuNeed>,
    pub(crate) terms: Vec<Term>,
    /// In order.
    pub(crate) preferred: Vec<PreferredNodes>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) ports: Vec<HostPort>,
    /// Where its volumes can be used.
    pub(crate) volume_terms: Vec<Term>,
    /// Those that others use as well, in the order of their names.
    pub(crate) volumes: Vec<Volume>,
    /// What it asks of other pods' places.
    pub(crate) rules: Option<Arc<Rules>>,
    /// What it asks of devices by its claims, claim by claim.
    pub(crate) claims: Vec<ClaimNeed>,
}

/// What a shape needs of a node's devices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GpuNeed {
    /// Devices.
    pub(crate) count: u16,
    /// Thousandths of each one's compute; 1000 is the device as a whole.
    pub(crate) milli: i64,
    /// Bytes of each one's memory; zero stands for the same fraction as of compute.
    pub(crate) memory: Amount,
    /// Allowed models, ascending; empty allows any.
    pub(crate) models: Vec<ModelOrd>,
}

impl GpuNeed {
    /// True for whole devices.
    pub(crate) fn whole(&self) -> bool {
        self.milli >= 1000
    }

    /// Thousandths of devices in all.
    pub(crate) fn total_milli(&self) -> i64 {
        i64::from(self.count) * self.milli
    }
}

/// Their order says nothing: pods with the same preferences are to have one shape.
fn in_order(mut preferred: Vec<PreferredNodes>) -> Vec<PreferredNodes> {
    preferred.sort_unstable();
    preferred
}

impl Model {
    /// A pod as it comes from outside, in the core's terms.
    pub(crate) fn template_of(&mut self, pod: &event::Pod) -> Template {
        let mut tolerations = pod.tolerations.clone();
        tolerations.sort_unstable();
        tolerations.dedup();
        let mut ports: Vec<HostPort> = pod.host_ports.iter().map(|text| HostPort::parse(text)).collect();
        ports.sort_unstable();
        ports.dedup();
        let rules = pod.rules.as_deref().filter(|rules| !rules.is_empty());
        Template {
            requests: self.resources.taken_in(&pod.requests),
            gpus: pod.gpus.clone(),
            terms: pod.node_terms.clone(),
            preferred: in_order(pod.preferred_nodes.clone()),
            tolerations,
            ports,
            volume_terms: pod.volume_terms.clone(),
            volumes: self.volumes_of(pod),
            rules: rules.map(|rules| Arc::new(Rules::of(rules, &pod.namespace))),
            images: pod.images.clone(),
        }
    }

    /// The shape of a pod, counted once more. Most pods have a template that many have, and no group that adds to it: the
    /// shape that the last of them had is found without looking at all of it.
    pub(crate) fn shape_for(
        &mut self,
        ord: PodOrd,
        template: &Template,
        group: Option<&event::Group>,
        tier: Tier,
    ) -> ShapeOrd {
        let pod = &self.pods[ord];
        let (of, devices) = (pod.template, pod.place.seat().map_or(0, |seat| seat.devices.len()));
        let adds = |g: &event::Group| {
            g.gpus.is_some() || !g.tolerations.is_empty() || !g.node_terms.is_empty() || !g.preferred_nodes.is_empty()
        };
        let plain = devices == 0 && pod.device_claims.is_empty() && !group.is_some_and(adds);
        if plain
            && let Some(Some((as_tier, shape, value))) = self.last_shapes.get(of.index())
            && *as_tier == tier
            && self.shapes.acquire_known(*shape, value)
        {
            return *shape;
        }
        let mut shape = self.shape_of(template, group, tier);
        shape.claims = self.claim_needs(&self.pods[ord]);
        if shape.gpus.is_none() && devices > 0 {
            self.assume_whole_devices(&mut shape, devices);
        }
        let shape = self.acquire_shape(shape);
        if plain {
            if self.last_shapes.len() <= of.index() {
                self.last_shapes.resize(of.index() + 1, None);
            }
            if let Some(slot) = self.last_shapes.get_mut(of.index()) {
                *slot = Some((tier, shape, self.shapes.value(shape).clone()));
            }
        }
        shape
    }

    /// One reference less to a template.
    pub(crate) fn let_go_of_template(&mut self, template: TemplateOrd) {
        if self.templates.release(template) {
            self.images.forget(template);
            if let Some(slot) = self.last_shapes.get_mut(template.index()) {
                *slot = None;
            }
        }
    }

    /// The shape of a pod in its group (or without one), in some tier.
    pub(crate) fn shape_of(&mut self, template: &Template, group: Option<&event::Group>, tier: Tier) -> Shape {
        let mut tolerations = template.tolerations.clone();
        if let Some(group) = group
            && !group.tolerations.is_empty()
        {
            tolerations.extend(group.tolerations.iter().cloned());
            tolerations.sort_unstable();
            tolerations.dedup();
        }
        let gpus = template.gpus.as_ref().or(group.and_then(|g| g.gpus.as_ref()));
        let gpus = gpus.filter(|g| g.count > 0).map(|g| self.gpu_need(g));
        let requests = self.with_a_pod(&template.requests);
        let ask = self.ask_of(&requests, gpus.as_ref());
        let terms = match group {
            Some(group) => joined(&template.terms, &group.node_terms),
            None => template.terms.clone(),
        };
        let mut preferred = template.preferred.clone();
        if let Some(group) = group
            && !group.preferred_nodes.is_empty()
        {
            preferred.extend(group.preferred_nodes.iter().cloned());
            preferred = in_order(preferred);
        }
        Shape {
            tier: self.charged_tier(&requests, tier),
            requests,
            ask,
            gpus,
            terms,
            preferred,
            tolerations,
            ports: template.ports.clone(),
            volume_terms: template.volume_terms.clone(),
            volumes: template.volumes.clone(),
            rules: template.rules.clone(),
            claims: Vec::new(),
        }
    }

    /// A bound pod has devices, and nothing says how much of them (its claim is not known): all of them.
    pub(crate) fn assume_whole_devices(&mut self, shape: &mut Shape, devices: usize) {
        let count = u16::try_from(devices).unwrap_or(u16::MAX);
        let need = GpuNeed {
            count,
            milli: 1000,
            memory: Amount::ZERO,
            models: Vec::new(),
        };
        shape.ask = self.ask_of(&shape.requests, Some(&need));
        shape.gpus = Some(need);
    }

    /// Why a pod asks for more than its group states, if it does.
    pub(crate) fn exceeds(&self, pod: PodOrd, template: &Template, group: &event::Group) -> Option<Reason> {
        group.requests.iter().find_map(|(resource, &stated)| {
            let asked = template
                .requests
                .iter()
                .find(|(r, _)| self.resources.name(*r) == resource)?
                .1
                .get();
            (asked > stated).then(|| Reason::PodExceedsGroup {
                pod: self.pods[pod].name.to_string(),
                resource: resource.clone(),
                asked,
                stated,
            })
        })
    }

    fn gpu_need(&mut self, request: &GpuRequest) -> GpuNeed {
        let mut models: Vec<ModelOrd> = request.models.iter().map(|m| self.models.intern(m.as_str())).collect();
        models.sort_unstable();
        models.dedup();
        let milli = if request.count > 1 {
            1000
        } else {
            i64::from(request.milli.clamp(1, 1000))
        };
        GpuNeed {
            count: request.count,
            milli,
            memory: Amount::taken_in(request.memory),
            models,
        }
    }

    /// Requests with the one of `pods` that every pod takes.
    fn with_a_pod(&self, requests: &Amounts) -> Amounts {
        let pods = self.resources.pods;
        let mut all: Amounts = requests.iter().copied().filter(|(r, _)| *r != pods).collect();
        all.push((pods, Amount::taken_in(1)));
        all.sort_by(|a, b| self.resources.name(a.0).cmp(self.resources.name(b.0)));
        all
    }

    /// What quotas are charged: the requests by the names of quotas, and GPUs by the GPU request.
    fn ask_of(&self, requests: &Amounts, gpus: Option<&GpuNeed>) -> Amounts {
        let mut ask: Amounts = Vec::with_capacity(requests.len() + 1);
        let mut add = |resource: ResourceOrd, amount: Amount| match ask.iter_mut().find(|(r, _)| *r == resource) {
            Some((_, sum)) => *sum += amount,
            None => ask.push((resource, amount)),
        };
        for &(resource, amount) in requests {
            if resource != self.resources.plugin_gpu && resource != self.resources.gpu {
                add(self.resources.in_quota(resource), amount);
            }
        }
        if let Some(gpus) = gpus {
            add(self.resources.gpu, Amount::taken_in(gpus.total_milli()));
        }
        ask.sort_by(|a, b| self.resources.name(a.0).cmp(self.resources.name(b.0)));
        ask
    }
}

/// Every alternative of the one joined with one of the other. No alternative at all means "any node", and an empty
/// alternative means "no node", as in Kubernetes.
fn joined(pod: &[Term], group: &[Term]) -> Vec<Term> {
    if pod.is_empty() {
        return group.to_vec();
    }
    if group.is_empty() {
        return pod.to_vec();
    }
    let pairs = pod.iter().flat_map(|p| group.iter().map(move |g| (p, g)));
    let mut all: Vec<Term> = pairs
        .filter(|(p, g)| !p.is_empty() && !g.is_empty())
        .take(ALTERNATIVES)
        .map(|(p, g)| p.iter().chain(g.iter()).cloned().collect())
        .collect();
    if all.is_empty() {
        all.push(Term::new());
    }
    all
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
    use crate::event::{Operator, Requirement};

    fn has(key: &str) -> Term {
        vec![Requirement {
            key: key.into(),
            operator: Operator::Exists,
            values: vec![],
        }]
    }

    #[test]
    fn alternatives_of_pod_and_group_are_joined_pairwise() {
        let all = joined(&[has("a"), has("b")], &[has("c")]);
        assert_eq!(all, [[has("a"), has("c")].concat(), [has("b"), has("c")].concat()]);
        assert_eq!(joined(&[], &[has("c")]), [has("c")]);
        assert_eq!(
            joined(&[Term::new()], &[has("c")]),
            [Term::new()],
            "an empty alternative matches no node"
        );
    }

    #[test]
    fn whole_gpus_count_in_thousandths_and_not_twice() {
        let mut model = Model::default();
        let pod = event::Pod {
            requests: [
                ("nvidia.com/gpu".to_string(), 2),
                ("duosuan.io/batch-cpu".to_string(), 500),
            ]
            .into(),
            gpus: Some(GpuRequest {
                count: 2,
                milli: 1000,
                memory: 0,
                models: vec![],
            }),
            ..Default::default()
        };
        let template = model.template_of(&pod);
        let shape = model.shape_of(&template, None, Tier::Batch);
        let ask: Vec<(&str, i64)> = shape
            .ask
            .iter()
            .map(|(r, a)| (model.resources.name(*r), a.get()))
            .collect();
        assert_eq!(ask, [("cpu", 500), ("gpu", 2000), ("pods", 1)]);
    }
}
