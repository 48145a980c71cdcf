//! What operators say of failover, over a node in memory: what is read, by whom, and what is refused before anybody is asked.

use async_trait::async_trait;
use http::StatusCode;
use portolan_core::ids::RegionName;
use serde_json::{Value, json};

use super::Bench;
use super::twin::Twin;
use crate::backend::{Failovers, SaidWord};
use crate::problem::Problem;
use crate::{Role, Settings};

#[async_trait]
impl Failovers for Twin {
    fn status(&self) -> Result<Value, Problem> {
        Ok(json!({ "region": "eu" }))
    }

    fn forecast(&self, region: Option<RegionName>) -> Result<Value, Problem> {
        Ok(json!({ "of": region }))
    }

    async fn say(&self, said: SaidWord) -> Result<Value, Problem> {
        Ok(json!({ "by": said.author, "say": said.word.say, "region": said.region, "shards": said.shards }))
    }
}

#[tokio::test]
async fn words_are_read_before_anybody_is_asked() {
    let bench = Bench::new(Settings::default());
    let path = "/api/v1/failover";
    let operator = bench.token(Role::Operator, None).await;
    let word = json!({ "say": "switch", "region": "us", "shards": ["s1"], "why": "a test" });
    let said = bench.with(&operator, "POST", path, word.clone()).await;
    assert_eq!(said.status, StatusCode::OK, "{}", said.body);
    assert_eq!((&said.body["region"], &said.body["shards"]), (&json!("us"), &json!(["s1"])));
    let forecast = bench.with(&operator, "GET", &format!("{path}/forecast?region=us"), Value::Null).await;
    assert_eq!(forecast.body, json!({ "of": "us" }));
    for wrong in [
        json!({ "say": "switch", "region": "U S" }),
        json!({ "say": "switch", "shards": ["S 1"] }),
        json!({ "say": "explode" }),
        json!({ "say": "freeze", "more": 1 }),
    ] {
        let refused = bench.with(&operator, "POST", path, wrong.clone()).await;
        assert_eq!(refused.code(), "invalid", "{wrong}: {}", refused.body);
    }
    let auditor = bench.token(Role::Auditor, None).await;
    assert_eq!(bench.with(&auditor, "GET", path, Value::Null).await.status, StatusCode::OK);
    assert_eq!(bench.with(&auditor, "POST", path, word).await.status, StatusCode::FORBIDDEN);
}
