//! What the devices of a claim have to have in common, or not.

use std::{borrow::Cow, collections::BTreeSet};

use super::{At, Search};
use crate::{event::DeviceConstraint, model::dra::pools::Device};

impl<'a> Search<'a> {
    /// Those of some candidates that meet the constraints with what was taken, and whether so many can be had of them yet,
    /// for all that the constraints say.
    pub(super) fn left_open<'b>(&mut self, at: At<'a>, count: usize, open: &'b [usize]) -> (Cow<'b, [usize]>, bool) {
        let about = |c: &(usize, &'a DeviceConstraint)| is_about(c.1, at);
        let constraints: Vec<_> = at.spec.constraints.iter().enumerate().filter(about).collect();
        if constraints.is_empty() || !at.sure {
            return (open.into(), open.len() >= count || !at.sure);
        }
        self.tried = self
            .tried
            .saturating_add(u32::try_from(open.len() / 8).unwrap_or(u32::MAX));
        let value = |index: usize, constraint: &DeviceConstraint| {
            let candidate = self.candidates.get(index)?;
            candidate
                .device
                .is
                .attributes
                .get(&constraint.attribute)
                .map(String::as_str)
        };
        let meets = |index: &usize| {
            constraints.iter().all(|(position, constraint)| {
                let values = self.values.get(*position).map_or(&[] as &[&str], Vec::as_slice);
                value(*index, constraint).is_some_and(|value| agrees(constraint, values, value))
            })
        };
        let left: Vec<usize> = open.iter().copied().filter(meets).collect();
        let mut enough = left.len() >= count;
        for (_, constraint) in constraints.iter().filter(|(_, constraint)| constraint.distinct) {
            let values: BTreeSet<_> = left.iter().map(|index| value(*index, constraint)).collect();
            enough &= values.len() >= count;
        }
        (left.into(), enough)
    }

    /// True if a device meets the constraints of its claim with those before it; it is then one of them.
    pub(super) fn meets_constraints(&mut self, at: At<'a>, device: &'a Device) -> bool {
        let constraints = || at.spec.constraints.iter().enumerate().filter(|(_, c)| is_about(c, at));
        let meets = |(position, constraint): (usize, &DeviceConstraint)| {
            let Some(value) = device.is.attributes.get(&constraint.attribute) else {
                return false;
            };
            let values = self.values.get(position).map_or(&[] as &[&str], Vec::as_slice);
            agrees(constraint, values, value)
        };
        if !constraints().all(meets) {
            return false;
        }
        for (position, constraint) in constraints() {
            let value = device.is.attributes.get(&constraint.attribute);
            if let (Some(values), Some(value)) = (self.values.get_mut(position), value) {
                values.push(value);
            }
        }
        true
    }
}

/// True if a value meets a constraint beside those that devices have which were taken.
fn agrees(constraint: &DeviceConstraint, values: &[&str], value: &str) -> bool {
    if constraint.distinct {
        !values.contains(&value)
    } else {
        values.first().is_none_or(|first| *first == value)
    }
}

/// True if a constraint is about what is asked for here.
pub(super) fn is_about(constraint: &DeviceConstraint, at: At<'_>) -> bool {
    let of = |name: &String| {
        let request = at
            .spec
            .requests
            .get(at.request)
            .is_some_and(|request| request.name == *name);
        request || *name == at.option.name
    };
    constraint.requests.is_empty() || constraint.requests.iter().any(of)
}
