//! The data API as clients see it: the same cases through [`answer`](super::answer) on both engines.

use std::future::Future;
use std::pin::Pin;

use place::Place;

mod engines;
mod features;
mod filters;
mod fuzz;
mod limits;
mod paging;
mod place;
mod tenants;

type Case = (&'static str, fn(Place) -> Pin<Box<dyn Future<Output = ()>>>);

/// Cases by name; the macro keeps both together.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($case)), |place| Box::pin($module::$case(place)))),*]
    };
}

const CASES: &[Case] = cases![
    engines::each_engine_tells_what_it_keeps,
    features::a_key_may_be_a_rows_only_column,
    features::etags_hold_writers_to_what_they_saw,
    features::problems_say_what_is_wrong,
    features::rows_come_and_go,
    features::the_catalogue_is_described,
    features::the_fence_is_told,
    features::transactions_are_whole,
    features::values_are_what_they_were,
    filters::filters_mean_what_a_model_says,
    fuzz::whatever_is_sent_is_answered,
    limits::answers_and_writes_are_bounded,
    paging::pages_visit_each_row_once,
    tenants::a_key_of_another_tenant_is_neither_changed_nor_told,
    tenants::nothing_reaches_over,
];

async fn run(place: Place) {
    for (name, case) in CASES {
        // The name of the case that fails is the last that is told.
        println!("{name}");
        case(place.clone()).await;
    }
}

#[tokio::test]
async fn contract_on_sqlite() {
    run(Place::sqlite()).await;
}

#[tokio::test]
async fn contract_on_postgres() {
    run(Place::postgres().await).await;
}
