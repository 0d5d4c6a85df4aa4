//! What a node remembers between two looks.

use serde::{Deserialize, Serialize};

use crate::{
    eviction::{Answer, Evictor},
    forecast::Forecast,
    guard::ShareGuard,
    history::History,
    host::Hosts,
    io::IoGuard,
    latency::LatencyGuard,
    llc::LlcGuard,
    memory::MemoryGuard,
    network::NetworkGuard,
    numa::Numa,
    observation::{Millis, Tier},
    offer::Offer,
    pasts::Pasts,
    policy::Mid,
    rates::Counters,
};

/// What a node remembers. Written and read, it survives a restart; counters and the guards begin anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// CPU of prod, mid and system.
    pub(crate) cpu: Forecasts,
    /// Memory of prod, mid and system.
    pub(crate) memory: Forecasts,
    /// CPU offered to batch.
    pub(crate) cpu_offer: Offer,
    /// Memory offered to batch.
    pub(crate) memory_offer: Offer,
    /// CPU and memory offered to mid.
    #[serde(default)]
    pub(crate) mid_offers: [Offer; 2],
    /// When the present minute of the long pasts began.
    #[serde(skip)]
    pub(crate) minute: Option<Millis>,
    /// The past of each pod of prod and mid.
    #[serde(default = "Pasts::unwritten")]
    pub(crate) pasts: Pasts,
    /// When the last sample was taken. After a restart the first look only sets the counters.
    #[serde(skip)]
    pub(crate) sampled: Option<Millis>,
    #[serde(skip)]
    pub(crate) counters: Counters,
    /// Counters at the last sample: looks may be a tenth of a second apart, and their rates are peaks of no length.
    #[serde(skip)]
    pub(crate) sampled_counters: Counters,
    #[serde(skip)]
    pub(crate) guard: ShareGuard,
    #[serde(skip)]
    pub(crate) memory_guard: MemoryGuard,
    #[serde(skip)]
    pub(crate) io_guard: IoGuard,
    #[serde(skip)]
    pub(crate) latency_guard: LatencyGuard,
    #[serde(skip)]
    pub(crate) llc_guard: LlcGuard,
    #[serde(skip)]
    pub(crate) network_guard: NetworkGuard,
    #[serde(skip)]
    pub(crate) history: History,
    #[serde(skip)]
    pub(crate) hosts: Hosts,
    #[serde(skip)]
    pub(crate) numa: Numa,
    /// What was evicted, and until when the node takes no batch for that.
    #[serde(default)]
    pub(crate) eviction: Evictor,
}

impl State {
    /// Forgets who was evicted, as where the past was only imagined.
    pub fn forget_evictions(&mut self) {
        self.eviction = Evictor::default();
    }

    /// Takes in what became of an order to evict a pod.
    pub fn evicted(&mut self, uid: &str, answer: Answer, now: Millis) {
        self.eviction.answer(uid, answer, now);
    }
}

/// Forecasts of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forecasts {
    pub(crate) prod: Forecast,
    pub(crate) mid: Forecast,
    pub(crate) system: Forecast,
    /// Prod in the long run: the peaks of its minutes.
    #[serde(default)]
    pub(crate) long: Forecast,
    /// Prod's peak in the present minute.
    #[serde(skip)]
    minute: Option<i64>,
}

impl Forecasts {
    /// The forecast of a tier that has one; what is not mid counts as prod.
    pub(crate) const fn of(&self, tier: Tier) -> &Forecast {
        match tier {
            Tier::Mid => &self.mid,
            Tier::Prod | Tier::Batch => &self.prod,
        }
    }

    /// The same, to be changed.
    pub(crate) const fn of_mut(&mut self, tier: Tier) -> &mut Forecast {
        match tier {
            Tier::Mid => &mut self.mid,
            Tier::Prod | Tier::Batch => &mut self.prod,
        }
    }

    /// Takes in a sample of all three, of prod and mid without what counts apart; nothing if one is missing, since the sum
    /// would be wrong.
    pub(crate) fn add(
        &mut self,
        sample: [Option<i64>; 3],
        apart: [i64; 2],
        now: Millis,
        half_life: Millis,
        quantile: u32,
    ) {
        let ([Some(prod), Some(mid), Some(system)], [of_prod, of_mid]) = (sample, apart) else {
            return;
        };
        // A forecast takes what is negative for none.
        self.prod.add(prod - of_prod, now, half_life, quantile);
        self.minute = self.minute.max(Some(prod - of_prod));
        self.mid.add(mid - of_mid, now, half_life, quantile);
        self.system.add(system, now, half_life, quantile);
    }

    /// Takes prod's long past, and the present minute, for so much more, or less if negative.
    pub(crate) fn shift_long(&mut self, by: i64) {
        self.long.shift(by);
        self.minute = self.minute.map(|peak| peak.saturating_add(by).max(0));
    }

    /// A minute is over: its peak is part of prod's long past.
    pub(crate) fn end_minute(&mut self, mid: &Mid, now: Millis) {
        if let Some(peak) = self.minute.take() {
            self.long.add(peak, now, mid.half_life, mid.quantile_percent);
        }
    }
}
