//! Checked integers: one amount of some resource in its base unit (milli-cores, bytes, units, thousandths of a GPU).

use std::{
    fmt,
    ops::{Add, AddAssign, Sub, SubAssign},
};

use crate::slab::ResourceOrd;

/// An amount of a resource. Arithmetic saturates and never wraps. What comes in from outside is clamped to
/// `0..=LARGEST`; sums of up to 1,024 such largest amounts (2^53 * 2^10 = 2^63) stay exact, and so do those of 800,000
/// pods of 11 TB each: saturation is a guard against absurd input, not something that accounting meets.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Amount(i64);

impl Amount {
    /// Nothing.
    pub(crate) const ZERO: Amount = Amount(0);
    /// Largest amount that is taken in: 2^53, 9 PB of memory.
    pub(crate) const LARGEST: Amount = Amount(1 << 53);

    /// Takes in an amount from outside: negative is nothing, absurd is the largest.
    pub(crate) fn taken_in(raw: i64) -> Amount {
        Amount(raw.clamp(0, Self::LARGEST.0))
    }

    /// The plain number.
    pub(crate) fn get(self) -> i64 {
        self.0
    }

    /// True for nothing.
    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Add for Amount {
    type Output = Amount;
    fn add(self, other: Amount) -> Amount {
        Amount(self.0.saturating_add(other.0))
    }
}

impl Sub for Amount {
    type Output = Amount;
    fn sub(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0))
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        *self = *self + other;
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Amount) {
        *self = *self - other;
    }
}

/// Amounts of a few resources, in the order of the resources' names (never of their ordinals, which depend on what
/// was heard of first).
pub(crate) type Amounts = Vec<(ResourceOrd, Amount)>;

/// Amounts of every resource, by ordinal. What was never added is zero.
#[derive(Clone, Default, Debug)]
pub(crate) struct Totals(Vec<Amount>);

impl Totals {
    /// The amount of one resource.
    #[inline]
    pub(crate) fn of(&self, resource: ResourceOrd) -> Amount {
        self.0.get(resource.index()).copied().unwrap_or(Amount::ZERO)
    }

    /// The amount of one resource, to be changed.
    #[inline]
    pub(crate) fn of_mut(&mut self, resource: ResourceOrd) -> &mut Amount {
        let index = resource.index();
        if index >= self.0.len() {
            self.0.resize(index + 1, Amount::ZERO);
        }
        #[allow(clippy::indexing_slicing, reason = "resized just above")]
        &mut self.0[index]
    }

    /// Adds each of some amounts.
    pub(crate) fn add(&mut self, amounts: &[(ResourceOrd, Amount)]) {
        for &(resource, amount) in amounts {
            *self.of_mut(resource) += amount;
        }
    }

    /// Takes each of some amounts off.
    pub(crate) fn sub(&mut self, amounts: &[(ResourceOrd, Amount)]) {
        for &(resource, amount) in amounts {
            *self.of_mut(resource) -= amount;
        }
    }

    /// Those that are not zero, by ordinal.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ResourceOrd, Amount)> + '_ {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, a)| !a.is_zero())
            .map(|(i, a)| (ResourceOrd::new(i), *a))
    }
}

/// Equal if each resource is; how far the vectors have grown does not count.
impl PartialEq for Totals {
    fn eq(&self, other: &Totals) -> bool {
        let longest = self.0.len().max(other.0.len());
        (0..longest).all(|i| self.of(ResourceOrd::new(i)) == other.of(ResourceOrd::new(i)))
    }
}

impl Eq for Totals {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_from_outside_is_clamped() {
        assert_eq!(Amount::taken_in(-5), Amount::ZERO);
        assert_eq!(Amount::taken_in(7).get(), 7);
        assert_eq!(Amount::taken_in(i64::MAX), Amount::LARGEST);
    }

    #[test]
    fn sums_saturate_instead_of_wrapping() {
        let mut sum = Amount::ZERO;
        for _ in 0..3000 {
            sum += Amount::LARGEST;
        }
        assert_eq!(sum.get(), i64::MAX);
    }

    #[test]
    fn totals_are_equal_however_far_they_have_grown() {
        let mut a = Totals::default();
        *a.of_mut(ResourceOrd::new(9)) += Amount::taken_in(1);
        *a.of_mut(ResourceOrd::new(9)) -= Amount::taken_in(1);
        assert_eq!(a, Totals::default());
    }
}
