//! What befalls regions, and how it ends.

use futures_util::future::join_all;
use rustix::process::Signal;

use super::{REGIONS, World, at};
use crate::line::{Line, Passage, Weather};
use crate::node::good;

/// What a line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Replication, and what regions say of each other.
    Logs,
    /// Requests that are handed on.
    Requests,
    /// The control store, for gateways and among its voters.
    Stores,
}

impl World {
    /// Ends a region's gateway at once.
    pub fn kill(&self, region: usize) {
        self.nodes[region].signal(Signal::KILL);
    }

    /// Starts a gateway that has ended again.
    pub async fn restart(&mut self, region: usize) {
        let node = self.nodes.remove(region).restarted(&[]).await;
        self.nodes.insert(region, node);
        self.found(region);
    }

    /// A region's gateway is not scheduled any more.
    pub fn stop(&self, region: usize) {
        self.nodes[region].signal(Signal::STOP);
    }

    /// It is again.
    pub fn go_on(&self, region: usize) {
        self.nodes[region].signal(Signal::CONT);
    }

    /// Ends a region's server of databases at once, as a power cut would.
    pub async fn kill_database(&self, region: usize) {
        self.clusters[region].kill().await;
    }

    /// Starts it again.
    pub async fn restart_database(&self, region: usize) {
        self.clusters[region].up().await;
    }

    /// Ends a region's voter at once.
    pub fn kill_voter(&mut self, region: usize) {
        if let Some(control) = &mut self.control {
            control.kill(region);
        }
    }

    /// Starts it again.
    pub fn revive_voter(&mut self, region: usize) {
        if let Some(control) = self.control.as_mut().filter(|control| control.pid(region).is_none()) {
            control.revive(region);
        }
    }

    /// Ends all that a region has at once: its gateway, its databases, its voter.
    pub async fn kill_region(&mut self, region: usize) {
        self.kill(region);
        self.kill_voter(region);
        self.kill_database(region).await;
    }

    /// All of it starts again.
    pub async fn revive_region(&mut self, region: usize) {
        self.revive_voter(region);
        self.restart_database(region).await;
        self.restart(region).await;
    }

    /// How one region is reached by another for replication.
    pub fn weather(&self, of: usize, by: usize, weather: Weather) {
        self.weather_for(For::Logs, of, by, weather);
    }

    /// How one region is reached by another.
    pub fn weather_for(&self, what: For, of: usize, by: usize, weather: Weather) {
        let lines: &[&Vec<Line>] = match what {
            For::Logs => &[&self.logs],
            For::Requests => &[&self.gates, &self.ways_in],
            For::Stores => &[&self.stores, &self.voters],
        };
        for line in lines {
            line[of].weather(REGIONS[by], weather);
        }
    }

    /// A region and the others cannot reach each other by anything.
    pub fn cut_off(&self, region: usize) {
        let hole = Weather { passage: Passage::Hole, ..Weather::default() };
        for other in (0..REGIONS.len()).filter(|other| *other != region) {
            for what in [For::Logs, For::Requests, For::Stores] {
                self.weather_for(what, region, other, hole);
                self.weather_for(what, other, region, hole);
            }
        }
    }

    /// All lines carry all, at once.
    pub fn heal(&self) {
        for (of, by) in (0..REGIONS.len()).flat_map(|of| (0..REGIONS.len()).map(move |by| (of, by))) {
            for what in [For::Logs, For::Requests, For::Stores] {
                self.weather_for(what, of, by, Weather::default());
            }
        }
    }

    /// Another region is to write a shard, by hand.
    pub async fn promote(&self, shard: &str, to: usize, by: usize) {
        good(self.folder_of(by), &["shard", "promote", shard, "--to", REGIONS[to]]).await;
    }

    /// Waits until one of the regions writes each shard; gives which.
    ///
    /// # Panics
    /// When none does.
    pub async fn led(&self, shards: &[&str], by: &[&str]) -> Vec<usize> {
        let looks = shards.iter().map(|shard| self.led_by(shard, by));
        join_all(looks).await.into_iter().map(at).collect()
    }
}
