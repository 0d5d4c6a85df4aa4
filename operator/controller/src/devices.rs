//! Dynamic resource allocation: slices become pools, classes and requests become numbered selectors of which each device
//! says by which it is meant, and claims name those numbers. The core sees nothing else. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use duosuan_scheduler::{
    ClaimAllocation, Event,
    event::{DeviceClaim, DeviceClaimSpec, DeviceOption, DevicePool, DeviceRequest, PoolDevice},
};
use serde_json::Value;

use crate::{
    index::Namespaced,
    translate::{
        dra::{Claim, Class, Device, Slice, attribute_text},
        expression::{Expression, Functions},
    },
};

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
    slices: BTreeMap<String, Slice>,
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
        if let Some(old) = self.slices.insert(name.clone(), slice) {
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
        let Some(old) = self.slices.remove(name) else {
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
        let events = if new {
            self.pools_anew(self.pools.keys().cloned().collect::<Vec<_>>())
        } else {
            Vec::new()
        };
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

    /// Pools as they are now.
    fn pools_anew(&self, pools: impl IntoIterator<Item = PoolName>) -> Vec<Event> {
        let functions = Functions::default();
        let anew = pools.into_iter().map(|name| match self.pools.get(&name) {
            Some(slices) => Event::DevicePool(Box::new(self.pool(name, slices, &functions))),
            None => {
                let (driver, pool) = name;
                Event::DevicePoolGone { driver, pool }
            }
        });
        anew.collect()
    }

    /// A pool: the slices of its newest generation, in the order of their names.
    fn pool(&self, (driver, pool): PoolName, slices: &BTreeSet<String>, functions: &Functions) -> DevicePool {
        let all = || slices.iter().filter_map(|name| self.slices.get(name));
        let newest = all().map(|slice| slice.generation).max().unwrap_or_default();
        let slices: Vec<&Slice> = all().filter(|slice| slice.generation == newest).collect();
        let mut devices: Vec<&Device> = slices.iter().flat_map(|slice| &slice.devices).collect();
        // Those that cannot be had are looked at last: what they are is said only where nothing else is there.
        devices.sort_by_key(|device| device.unsupported.is_some());
        let counters: BTreeMap<String, i64> = slices
            .iter()
            .flat_map(|slice| &slice.counters)
            .map(|(name, value)| (name.clone(), *value))
            .collect();
        DevicePool {
            fault: fault(&driver, &pool, &slices, &devices, &counters),
            devices: devices
                .into_iter()
                .map(|device| self.device(&pool, device, functions))
                .collect(),
            driver,
            pool,
            counters,
        }
    }

    fn device(&self, pool: &str, device: &Device, functions: &Functions) -> PoolDevice {
        let (mut selectors, mut failed) = (Vec::new(), Vec::new());
        for (number, expressions) in &self.compiled {
            let of = |expression: &(String, Expression)| {
                let (what, expression) = expression;
                let told = |error: String| {
                    let Device { name, seen, .. } = device;
                    format!("{what} on device {}/{pool}/{name}: {error}", seen.driver)
                };
                expression.means(&device.seen, functions).map_err(told)
            };
            let mut meant = Ok(true);
            for expression in expressions {
                meant = of(expression);
                if meant != Ok(true) {
                    break;
                }
            }
            match (meant, &device.unsupported) {
                (Ok(true), Some(why)) => {
                    let Device { name, seen, .. } = device;
                    failed.push((*number, format!("device {}/{pool}/{name}: {why}", seen.driver)));
                }
                (Ok(true), None) => selectors.push(*number),
                (Ok(false), _) => {}
                (Err(why), _) => failed.push((*number, why)),
            }
        }
        let attributes = device.seen.attributes.iter();
        let attributes =
            attributes.filter_map(|((domain, name), value)| Some((format!("{domain}/{name}"), attribute_text(value)?)));
        PoolDevice {
            name: device.name.clone(),
            reach: device.reach.clone(),
            selectors,
            failed,
            attributes: attributes.collect(),
            taints: device.taints.clone(),
            shared: device.seen.shared,
            capacity: device.capacity.clone(),
            consumes: device.consumes.clone(),
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

    /// Where there is no API server: the claims of a pod that was bound have their devices, and it may use them.
    pub fn granted(&mut self, namespace: &str, pod: &str, allocations: &[ClaimAllocation]) -> Vec<Event> {
        let mut events = Vec::new();
        for of in allocations {
            let Some(known) = self.claims.get(&(namespace.to_owned(), of.claim.clone())) else {
                continue;
            };
            let mut claim = known.claim.clone();
            claim.allocation.get_or_insert_with(|| of.allocation.clone());
            claim.reserved.push(pod.to_owned());
            events.extend(self.claim(claim));
        }
        events
    }

    /// Where there is no API server: claims of a pod have given back what they had.
    pub fn taken_back(&mut self, namespace: &str, pod: &str, claims: &[ClaimAllocation]) -> Vec<Event> {
        let mut events = Vec::new();
        for of in claims {
            if let Some(known) = self.claims.get(&(namespace.to_owned(), of.claim.clone())) {
                let mut claim = known.claim.clone();
                claim.reserved.retain(|uid| uid != pod);
                claim.allocation = None;
                events.extend(self.claim(claim));
            }
            events.push(Event::TakenBack {
                namespace: namespace.to_owned(),
                name: of.claim.clone(),
                uid: of.uid.clone(),
            });
        }
        events
    }

    /// Where there is no API server: a pod is gone. Its own claims are gone with it, and claims that nobody uses have nothing
    /// any more.
    pub fn left(&mut self, pod: &str) -> Vec<Event> {
        let concerns = |known: &&Known| {
            known.claim.owner.as_deref() == Some(pod) || known.claim.reserved.iter().any(|uid| uid == pod)
        };
        let claims: Vec<Claim> = self
            .claims
            .values()
            .filter(concerns)
            .map(|known| known.claim.clone())
            .collect();
        let mut events = Vec::new();
        for mut claim in claims {
            if claim.owner.as_deref() == Some(pod) {
                events.push(self.claim_gone((claim.namespace, claim.name)));
                continue;
            }
            claim.reserved.retain(|uid| uid != pod);
            if claim.reserved.is_empty() {
                claim.allocation = None;
            }
            events.extend(self.claim(claim));
        }
        events
    }
}

/// Why nothing may be had of a pool.
fn fault(
    driver: &str,
    pool: &str,
    slices: &[&Slice],
    devices: &[&Device],
    counters: &BTreeMap<String, i64>,
) -> Option<String> {
    let whole = slices.first().map_or(0, |slice| slice.slices);
    if i64::try_from(slices.len()).unwrap_or(i64::MAX) != whole {
        return Some(format!(
            "resource pool {driver}/{pool} is currently being updated: {} of {whole} slices are there",
            slices.len()
        ));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = devices.iter().find(|device| !names.insert(&device.name)) {
        return Some(format!(
            "resource pool {driver}/{pool} is invalid: duplicate device name {}",
            twice.name
        ));
    }
    let mut consumed = devices.iter().flat_map(|device| device.consumes.keys());
    let unknown = consumed.find(|counter| !counters.contains_key(*counter))?;
    Some(format!(
        "resource pool {driver}/{pool} is invalid: counter {unknown} not found"
    ))
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
