//! What a claim loses if it goes.

use crate::{
    event::{Interruption, Time},
    lost::LostWork,
    model::{ClaimSlot, Model, Shape},
    slab::{ClaimOrd, PodOrd},
};

/// Milliseconds that one who does not say is taken to need from its new start until it is where it was: half a minute for
/// its image and process (30 s), and as long to read its state (30 s).
const RESTART: i64 = 30_000 + 30_000;

impl ClaimSlot {
    /// Milliseconds of the work of each of its pods that are lost if they go now, `checkpoint` being the last that its pods
    /// tell of.
    ///
    /// It is what was done since the last checkpoint: the last that is told of; or else the last that there was if one was
    /// written every interval since the start; or else the start. One that gets notice writes a checkpoint then, and
    /// loses no more than that time. What it takes to be back where it was comes on top.
    fn lost_time(&self, now: Time, checkpoint: Option<Time>) -> i64 {
        let Interruption {
            notice,
            checkpoint_interval,
            restart_time,
            last_checkpoint,
        } = self.interruption;
        let ran = self.started.map_or(0, |started| now.0.saturating_sub(started.0)).max(0);
        let since = |at: Time| now.0.saturating_sub(at.0).clamp(0, ran);
        let done = match (last_checkpoint.max(checkpoint), checkpoint_interval) {
            (Some(last), _) => since(last),
            (None, Some(interval)) if interval > 0 => ran % interval,
            (None, _) => ran,
        };
        let done = if notice > 0 { done.min(notice) } else { done };
        done.saturating_add(restart_time.unwrap_or(RESTART).max(0))
    }
}

impl Model {
    /// Milliseconds of work of each of its pods that a claim loses if it goes now.
    pub(crate) fn lost_time(&self, claim: ClaimOrd) -> i64 {
        let told = self.members(claim).filter_map(|p| self.pods[p].last_checkpoint).max();
        self.claims[claim].lost_time(self.now, told)
    }

    /// What is lost if some pods of a claim go now.
    pub(crate) fn lost_work(&self, claim: ClaimOrd, pods: impl IntoIterator<Item = PodOrd>) -> LostWork {
        self.lost_in(self.lost_time(claim), pods)
    }

    /// What is lost if some pods of which each has worked so many milliseconds in vain go now.
    pub(crate) fn lost_in(&self, time: i64, pods: impl IntoIterator<Item = PodOrd>) -> LostWork {
        let mut lost = LostWork::default();
        for pod in pods {
            lost += LostWork::of(time, self.size_of(self.shapes.value(self.pods[pod].shape)));
        }
        lost
    }

    /// Thousandths of cards and milli-cores that a pod of a shape holds.
    fn size_of(&self, shape: &Shape) -> (i64, i64) {
        let of = |resource| {
            let asked = shape.ask.iter().find(|(r, _)| *r == resource);
            asked.map_or(0, |(_, amount)| amount.get())
        };
        (of(self.resources.gpu), of(self.resources.cpu))
    }
}
