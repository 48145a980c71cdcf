//! Failover with real databases, a real control store and real gateways: regions die as a whole, hang, are cut off and lose their control store, and
//! people move shards, while clients everywhere write and read. By the clients' own histories nothing that was acknowledged is gone without a word, no
//! epoch has two writers, and what is lost lies within what was told.

mod dies;
mod hangs;
mod people;
mod planned;
mod store;
mod storm;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use portolan_foundation::random;
use portolan_tests::client::{Answer, Client};
use portolan_tests::clients::{Clients, Dice};
use portolan_tests::history::{Asked, Found, judge};
use portolan_tests::regions::{HOME, Loss, REGIONS, SHARDS, World, at};
use portolan_tests::{PATIENCE, until};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The regions that write no shard at first.
const OTHERS: [&str; 2] = ["ap", "eu"];
/// Writes of each shard, before something happens and after.
const SOME: usize = 30;
/// Local reads that a region answers while something is wrong.
const READS: usize = 10;
/// Less than a request takes that waits for news.
const QUICK: Duration = Duration::from_millis(1_900);
/// From one look at what clients have done to the next.
const LOOK: Duration = Duration::from_millis(20);

/// Three regions with clients at work.
struct Play {
    begun: Instant,
    clients: Arc<Clients>,
    running: Vec<JoinHandle<Option<()>>>,
    world: World,
}

impl Play {
    async fn start() -> Self {
        let seed = random::u64();
        Self::with(&mut Dice::new(seed)).await
    }

    async fn with(dice: &mut Dice) -> Self {
        let begun = Instant::now();
        let world = World::start_with_failover("fast").await;
        let (tenants, tokens) = world.tenants().await;
        let clients = Arc::new(Clients::new(Arc::clone(&world.fronts), tenants, tokens));
        let running = clients.start(dice);
        let play = Self { begun, clients, running, world };
        play.go_on().await;
        play.say("three regions take writes and read them");
        play
    }

    fn say(&self, what: &str) {
        eprintln!("{:6.2} {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Waits until more writes of each shard are acknowledged.
    async fn go_on(&self) {
        let before = SHARDS.map(|shard| self.clients.history.of_shard(shard));
        let deadline = Instant::now() + PATIENCE;
        for (shard, before) in SHARDS.iter().zip(before) {
            while self.clients.history.of_shard(shard) <= before + SOME {
                assert!(Instant::now() < deadline, "writes of {shard} do not go on:\n{}", self.world.logs());
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Waits until regions have answered local reads that were sent after a moment. A database that is sealed may refuse one, and no more than that.
    async fn reads_go_on(&self, regions: &[&str], since: Duration) {
        for region in regions {
            until(&format!("reads in {region} go on"), async || {
                let operations = self.clients.history.operations();
                let local = operations.reads.iter().filter(|read| {
                    read.asked == Asked::Local && read.region == at(region) && read.invoked >= since
                });
                local.count() >= READS
            })
            .await;
        }
        let operations = self.clients.history.operations();
        let missed = operations.missed.iter().filter(|missed| {
            missed.asked == Asked::Local
                && missed.invoked >= since
                && regions.contains(&REGIONS[missed.region])
        });
        let missed: Vec<_> = missed.collect();
        self.say(&format!("local reads go on in {regions:?}; not answered were {missed:?}"));
        assert!(
            missed.len() * 10 < READS * regions.len(),
            "local reads are not answered: {}",
            self.world.logs()
        );
    }

    /// Asks a region for a page of a tenant's application; gives the region whose application answered.
    async fn application(&self, region: &str) -> String {
        let answer = self.ask(region, Request::get("/page"), "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        told["headers"]["portolan-region"].as_str().unwrap_or_default().to_owned()
    }

    /// Asks a region for the rows of the first tenant, or changes them.
    async fn rows(&self, region: &str, request: http::request::Builder, content: &str) -> Answer {
        let authorization = format!("Bearer {}", self.clients.token(0));
        self.ask(region, request.header("authorization", authorization), content).await
    }

    async fn ask(&self, region: &str, request: http::request::Builder, content: &str) -> Answer {
        let front = self.world.node(at(region)).public();
        let mut client = Client::connect(front, "shop.test").await.unwrap();
        let request = request.header("x-tenant", &self.clients.tenants[0]);
        client
            .send(request.header("content-type", "application/json"), Bytes::from(content.to_owned()))
            .await
            .unwrap()
    }

    /// Waits until other regions than the first write all shards, and gives what they say is lost.
    async fn taken_over(&self) -> Vec<(usize, Loss)> {
        let leaders = self.world.led(&SHARDS, &OTHERS).await;
        let mut told = Vec::new();
        for (shard, leader) in SHARDS.iter().zip(leaders) {
            until("it is told what is lost", async || self.world.loss(leader, shard).await.is_some()).await;
            let loss = self.world.loss(leader, shard).await.unwrap();
            self.say(&format!("{shard} is written in {}; lost: {loss:?}", REGIONS[leader]));
            assert_eq!(loss.exact, None, "nobody has counted it yet");
            told.push((leader, loss));
        }
        told
    }

    /// Waits until it is counted what was lost with the first region, which is back.
    async fn counted(&self, told: &[(usize, Loss)]) {
        for (shard, (leader, _)) in SHARDS.iter().zip(told) {
            let counted =
                async || self.world.loss(*leader, shard).await.is_some_and(|loss| loss.exact.is_some());
            until(&format!("what is lost of {shard} is counted"), counted).await;
        }
    }

    /// Ends the clients, waits until all copies are alike, and judges.
    async fn end(&mut self) -> Found {
        self.clients.bell.begin();
        for client in self.running.drain(..) {
            client.await.unwrap().unwrap();
        }
        let history = &self.clients.history;
        let (acknowledged, unknown, reads) = history.counts();
        self.say(&format!(
            "{acknowledged} writes were acknowledged, {unknown} are unknown, {reads} reads were answered; refused were {:?}",
            history.refusals()
        ));
        let mut found = self.world.alike().await;
        self.say("all copies are alike");
        let operations = history.operations();
        let deadline = Instant::now() + PATIENCE / 3;
        let problems = loop {
            let problems = judge(&operations, &found).problems();
            // What lies past a cut is noted once a copy has heard of it.
            if problems.is_empty() || Instant::now() > deadline {
                break problems;
            }
            found.ledger = self.world.ledger().await;
        };
        assert!(problems.is_empty(), "{problems}{}", self.world.logs());
        found
    }

    /// What is lost lies within what was told, and is what was counted; and clients know of no other loss.
    async fn loss_is_as_told(&self, told: &[(usize, Loss)], found: &Found) {
        let operations = self.clients.history.operations();
        for (shard, (leader, told)) in SHARDS.iter().zip(told) {
            let counted = self.world.loss(*leader, shard).await.unwrap();
            let real = self.world.stranded(shard).await;
            let before = found.origins.keys().filter(|(name, _)| name == shard).map(|(_, epoch)| *epoch);
            let last = before.filter(|epoch| {
                let origins = &found.origins[&((*shard).to_owned(), *epoch)];
                origins.contains(HOME)
            });
            let (known, possible) = operations.strays(found, shard, last.max().unwrap_or_default());
            let what = format!(
                "of {shard} {real} rows are lost, told were {told:?}, counted {counted:?}; clients know of {known} and perhaps {possible} more"
            );
            self.say(&what);
            assert!(told.holds(real) && counted.exact == Some(real), "{what}\n{}", self.world.logs());
            assert!(known <= real && real <= known + possible, "{what}");
        }
    }
}
