//! What of a device's capacity a request gets: rounded up to what may be had of it.

use super::pools::Device;
use crate::event::{Capacity, DeviceOption, Steps};

/// What of each capacity of a device a request gets; `None` if it cannot be given that.
pub(super) fn amounts<'a>(option: &DeviceOption, device: &'a Device) -> Option<Vec<(&'a str, i64)>> {
    if option
        .capacity
        .keys()
        .any(|name| !device.is.capacity.contains_key(name))
    {
        return None;
    }
    let each = device.is.capacity.iter().map(|(name, capacity)| {
        let asked = option.capacity.get(name).copied();
        Some((name.as_str(), amount(asked, capacity)?))
    });
    each.collect()
}

/// What of a capacity a request gets.
fn amount(asked: Option<i64>, capacity: &Capacity) -> Option<i64> {
    let Some(asked) = asked else {
        return Some(capacity.default.unwrap_or(capacity.value));
    };
    match &capacity.steps {
        None => Some(asked),
        Some(Steps::Values(values)) => values.iter().copied().find(|value| *value >= asked),
        Some(Steps::Range { min, max, step }) => {
            let above = asked.saturating_sub(*min).max(0);
            let rounded = match step {
                Some(step) if *step > 0 => above.checked_add(step - 1)? / step * step,
                _ => above,
            };
            let amount = min.checked_add(rounded)?;
            max.is_none_or(|max| amount <= max).then_some(amount)
        }
    }
}
