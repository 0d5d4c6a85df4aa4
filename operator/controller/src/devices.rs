//! Dynamic resource allocation: slices become pools, classes and requests become numbered selectors of which each device
//! says by which it is meant, and claims name those numbers. The core sees nothing else. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use duosuan_scheduler::{
    ClaimAllocation, Event,
    event::{DeviceClaim, DeviceClaimSpec, DeviceOption, DeviceRequest},
};
use serde_json::Value;

use crate::{
    index::Namespaced,
    translate::{
        dra::{Claim, Class, Slice},
        expression::Expression,
    },
};

mod offline;
mod pools;

use pools::Judged;

/// Selectors that are kept though no claim names them: to know of each device whether a new one means it costs much more.
const IDLE: usize = 64;

/// Driver and name of a pool.
type PoolName = (String, String);

/// A claim that has to say what it has before a pod is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The claim, and the devices that it gets unless it has them.
    pub of: ClaimAllocation,
    /// The configuration of the classes of devices, by name.
    pub classes: BTreeMap<String, Vec<Value>>,
    /// In the answer, the claim as the API server has it since.
    pub written: Option<Value>,
}

/// Which devices are meant: by all expressions of a class and all of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Selector {
    class: String,
    of_class: Vec<String>,
    of_request: Vec<String>,
}

/// Expressions of a selector, with what each is called.
type Compiled = Vec<(String, Expression)>;

#[derive(Debug)]
struct Used {
    /// Claims that name it.
    claims: u32,
    number: u32,
}

/// Devices, and the claims to them.
#[derive(Debug, Default)]
pub struct Devices {
    slices: BTreeMap<String, Judged>,
    /// Names of slices by their pool.
    pools: BTreeMap<PoolName, BTreeSet<String>>,
    classes: BTreeMap<String, Class>,
    claims: BTreeMap<Namespaced, Known>,
    selectors: HashMap<Selector, Used>,
    /// Selectors that no claim names for the moment, the one longest so first: the next pod of a template names them again.
    idle: VecDeque<Selector>,
    compiled: BTreeMap<u32, Compiled>,
    /// The number that the last new selector got.
    numbers: u32,
    /// How often a selector was evaluated for a device.
    evaluated: u64,
}

/// A claim, and the selectors that it names.
#[derive(Debug)]
struct Known {
    claim: Claim,
    selectors: Vec<Selector>,
}

impl Devices {
    /// A slice is there, or changed.
    pub fn slice(&mut self, slice: Slice) -> Vec<Event> {
        let name = slice.name.clone();
        let pool = (slice.driver.clone(), slice.pool.clone());
        let mut changed = BTreeSet::from([pool.clone()]);
        let old = self.slices.remove(&name);
        self.slices.insert(name.clone(), Judged::of(slice, old.as_ref()));
        if let Some(Judged { slice: old, .. }) = old {
            let old = (old.driver, old.pool);
            if old != pool {
                self.leave_pool(&old, &name);
                changed.insert(old);
            }
        }
        self.pools.entry(pool).or_default().insert(name);
        self.pools_anew(changed)
    }

    /// A slice is gone.
    pub fn slice_gone(&mut self, name: &str) -> Vec<Event> {
        let Some(Judged { slice: old, .. }) = self.slices.remove(name) else {
            return Vec::new();
        };
        let pool = (old.driver, old.pool);
        self.leave_pool(&pool, name);
        self.pools_anew([pool])
    }

    fn leave_pool(&mut self, pool: &PoolName, slice: &str) {
        if let Some(slices) = self.pools.get_mut(pool) {
            slices.remove(slice);
            if slices.is_empty() {
                self.pools.remove(pool);
            }
        }
    }

    /// A class is there, or gone: claims that name it mean others now.
    pub fn class(&mut self, name: &str, class: Option<Class>) -> Vec<Event> {
        let old = match class {
            Some(class) => self.classes.insert(name.to_owned(), class),
            None => self.classes.remove(name),
        };
        let expressions = |class: Option<&Class>| class.map(|class| class.expressions.clone());
        if expressions(old.as_ref()) == expressions(self.classes.get(name)) {
            return Vec::new();
        }
        let names_it = |known: &Known| {
            let options = known
                .claim
                .asks
                .iter()
                .flat_map(|asks| &asks.requests)
                .flat_map(|(_, options)| options);
            options.into_iter().any(|option| option.class == name)
        };
        let claims = self.claims.iter().filter(|(_, known)| names_it(known));
        let claims: Vec<Claim> = claims.map(|(_, known)| known.claim.clone()).collect();
        claims.into_iter().flat_map(|claim| self.claim(claim)).collect()
    }

    /// A claim is there, or changed. One that is older than what is known is passed over.
    pub fn claim(&mut self, claim: Claim) -> Vec<Event> {
        let name = (claim.namespace.clone(), claim.name.clone());
        let known = self.claims.get(&name);
        if known.is_some_and(|k| k.claim.uid == claim.uid && k.claim.version > claim.version && claim.version.is_some())
        {
            return Vec::new();
        }
        let (spec, selectors, refused) = match self.spec_of(&claim) {
            Ok((spec, selectors)) => (spec, selectors, None),
            Err(why) => (DeviceClaimSpec::default(), Vec::new(), Some(why)),
        };
        // New selectors first: the claim is to find its devices.
        let (spec, mut events) = self.number(spec, &selectors);
        events.push(Event::DeviceClaim(Box::new(DeviceClaim {
            uid: claim.uid.clone(),
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
            owner: claim.owner.clone(),
            spec,
            allocation: claim.allocation.clone(),
            reserved: claim.reserved.clone(),
            deleting: claim.deleting,
            refused,
        })));
        let known = self.claims.insert(name, Known { claim, selectors });
        self.let_go(known);
        events
    }

    /// True if this very claim is there, whatever is known of it.
    pub fn has(&self, claim: &Claim) -> bool {
        let known = self.claims.get(&(claim.namespace.clone(), claim.name.clone()));
        known.is_some_and(|known| known.claim.uid == claim.uid)
    }

    /// A claim is gone.
    pub fn claim_gone(&mut self, name: Namespaced) -> Event {
        let known = self.claims.remove(&name);
        self.let_go(known);
        let (namespace, name) = name;
        Event::DeviceClaimGone { namespace, name }
    }

    /// What a claim asks for, with the position of each option's selector in the list beside it instead of a number; or why
    /// nothing is allocated for it.
    fn spec_of(&self, claim: &Claim) -> Result<(DeviceClaimSpec, Vec<Selector>), String> {
        if claim.allocation.is_some() {
            // It has what it asked for.
            return Ok((DeviceClaimSpec::default(), Vec::new()));
        }
        let asks = claim.asks.as_ref().map_err(ToString::to_string)?;
        let mut selectors = Vec::new();
        let mut requests = Vec::with_capacity(asks.requests.len());
        for (name, alternatives) in &asks.requests {
            let mut options = Vec::with_capacity(alternatives.len());
            for option in alternatives {
                let Some(class) = self.classes.get(&option.class) else {
                    return Err(format!(
                        "request {}: device class {} does not exist",
                        option.name, option.class
                    ));
                };
                let selector = Selector {
                    class: option.class.clone(),
                    of_class: class.expressions.clone(),
                    of_request: option.expressions.clone(),
                };
                if !self.selectors.contains_key(&selector) {
                    compile(&selector).map_err(|why| format!("request {}: {why}", option.name))?;
                }
                options.push(DeviceOption {
                    name: option.name.clone(),
                    selector: u32::try_from(selectors.len()).unwrap_or(u32::MAX),
                    count: option.count,
                    tolerations: option.tolerations.clone(),
                    capacity: option.capacity.clone(),
                });
                selectors.push(selector);
            }
            requests.push(DeviceRequest {
                name: name.clone(),
                options,
            });
        }
        let constraints = asks.constraints.clone();
        Ok((DeviceClaimSpec { requests, constraints }, selectors))
    }

    /// Gives the selectors of a claim their numbers, and says of the pools whose devices new ones mean.
    fn number(&mut self, mut spec: DeviceClaimSpec, selectors: &[Selector]) -> (DeviceClaimSpec, Vec<Event>) {
        let mut numbers = Vec::with_capacity(selectors.len());
        let mut new = false;
        for selector in selectors {
            let used = self.selectors.entry(selector.clone()).or_insert_with(|| {
                self.numbers = self.numbers.wrapping_add(1);
                self.compiled
                    .insert(self.numbers, compile(selector).unwrap_or_default());
                new = true;
                Used {
                    claims: 0,
                    number: self.numbers,
                }
            });
            if used.claims == 0 {
                self.idle.retain(|idle| idle != selector);
            }
            used.claims = used.claims.saturating_add(1);
            numbers.push(used.number);
        }
        for option in spec.requests.iter_mut().flat_map(|request| &mut request.options) {
            option.selector = numbers.get(option.selector as usize).copied().unwrap_or(0);
        }
        let events = if new { self.pools_meant_anew() } else { Vec::new() };
        (spec, events)
    }

    fn let_go(&mut self, known: Option<Known>) {
        for selector in known.into_iter().flat_map(|known| known.selectors) {
            let Some(used) = self.selectors.get_mut(&selector) else {
                continue;
            };
            used.claims = used.claims.saturating_sub(1);
            if used.claims == 0 {
                self.idle.push_back(selector);
            }
        }
        while self.idle.len() > IDLE {
            let oldest = self.idle.pop_front();
            if let Some(used) = oldest.and_then(|selector| self.selectors.remove(&selector)) {
                self.compiled.remove(&used.number);
            }
        }
    }

    /// What has to be written into the claims of a pod of a namespace before it is bound.
    pub fn grants(&self, namespace: &str, allocations: Vec<ClaimAllocation>) -> Vec<Grant> {
        let grant = |of: ClaimAllocation| {
            let known = self.claims.get(&(namespace.to_owned(), of.claim.clone()));
            let selectors = known.into_iter().flat_map(|known| &known.selectors);
            let classes = selectors.filter_map(|selector| {
                let class = self.classes.get(&selector.class)?;
                (!class.config.is_empty()).then(|| (class.name.clone(), class.config.clone()))
            });
            Grant {
                classes: classes.collect(),
                of,
                written: None,
            }
        };
        allocations.into_iter().map(grant).collect()
    }
}

fn compile(selector: &Selector) -> Result<Compiled, String> {
    let of_class = selector.of_class.iter().enumerate();
    let of_class = of_class.map(|(i, text)| (format!("class {}: selector #{i}", selector.class), text));
    let of_request = selector.of_request.iter().enumerate();
    let all = of_class.chain(of_request.map(|(i, text)| (format!("selector #{i}"), text)));
    all.map(|(what, text)| match Expression::read(text) {
        Ok(expression) => Ok((what, expression)),
        Err(error) => Err(format!("{what}: {error}")),
    })
    .collect()
}

#[cfg(test)]
mod tests;
