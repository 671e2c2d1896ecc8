use proptest::prelude::*;

use super::{
    account::{LONGEST, SHORTEST},
    *,
};

fn tenancy(text: &str) -> Arc<Tenancy> {
    let config = Config::parse(text, "test").unwrap();
    config.validate("test").unwrap();
    Tenancy::new(&config)
}

fn want(refused: Result<Option<Place>, Refused>) -> Want {
    refused.unwrap_err().want
}

#[test]
fn a_tenant_has_three_quarters_of_the_places_unless_it_is_said_otherwise() {
    for (text, tenant, quota) in [
        ("worker.concurrency = 64", "a", 48),
        ("worker.concurrency = 7", "a", 5),
        ("worker.concurrency = 1", "a", 1),
        ("worker.tenant_concurrency = 3", "a", 3),
        ("worker.tenant_concurrency = 3\ntenants.a.concurrency = 5", "a", 5),
        ("worker.tenant_concurrency = 3\ntenants.b.concurrency = 5", "a", 3),
    ] {
        let tenancy = tenancy(text);
        let places: Vec<_> = (0..quota).map(|_| tenancy.enter(tenant).unwrap()).collect();
        assert_eq!(want(tenancy.enter(tenant)), Want::Places, "{text}");
        assert!(tenancy.enter("other").unwrap().is_some(), "{text}");
        drop(places);
        assert!(tenancy.enter(tenant).is_ok(), "{text}");
    }
}

#[test]
fn jobs_without_a_tenant_are_bound_by_nothing() {
    let tenancy = tenancy("worker.tenant_concurrency = 1");
    for _ in 0..100 {
        assert!(tenancy.enter("").unwrap().is_none());
    }
}

#[test]
fn a_rate_allows_its_burst_at_once_and_then_says_when() {
    let tenancy = tenancy("[tenants.a]\nrate_per_second = 0.1\nburst = 3\n");
    assert_eq!(tenancy.outlook().turn.room("a"), 3, "no receive brings more than may begin");
    for _ in 0..3 {
        drop(tenancy.enter("a").unwrap());
    }
    let refused = tenancy.enter("a").unwrap_err();
    assert_eq!(refused.want, Want::Rate);
    assert!(refused.after > Duration::from_secs(5), "{refused:?}");
    let outlook = tenancy.outlook();
    assert_eq!(outlook.turn.room("a"), 0);
    let wait = outlook.until.unwrap().saturating_duration_since(Instant::now());
    assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(10), "{wait:?}");
}

#[test]
fn who_is_held_back_again_and_again_waits_longer_and_never_more_than_a_minute() {
    let tenancy = tenancy("[tenants.a]\nconcurrency = 1\n");
    let _place = tenancy.enter("a").unwrap();
    let after: Vec<_> = (0..5000).map(|_| tenancy.enter("a").unwrap_err().after).collect();
    assert!(after.iter().all(|after| (SHORTEST..=LONGEST).contains(after)));
    let sum = |some: &[Duration]| some.iter().sum::<Duration>();
    assert!(sum(&after[4900..]) > 20 * sum(&after[..100]).min(Duration::from_mins(1)));
    // They do not all come back at once.
    let distinct: std::collections::BTreeSet<_> = after[4900..].iter().collect();
    assert!(distinct.len() > 10);
}

#[test]
fn it_is_told_once_in_a_while() {
    let tenancy = tenancy("[tenants.a]\nconcurrency = 1\n");
    let _place = tenancy.enter("a").unwrap();
    let told = (0..100).filter(|_| tenancy.enter("a").unwrap_err().tell).count();
    assert_eq!(told, 1);
}

#[test]
fn a_receive_that_leaves_a_tenant_alone_is_told_when_it_has_room() {
    let tenancy = tenancy("[tenants.a]\nconcurrency = 2\n");
    let first = tenancy.enter("a").unwrap();
    let before = tenancy.outlook();
    assert_eq!(before.turn.room("a"), 1);
    let second = tenancy.enter("a").unwrap();
    let outlook = tenancy.outlook();
    assert_eq!(outlook.turn.room("a"), 0);
    assert!(!outlook.stale.is_cancelled());
    drop(first);
    assert!(outlook.stale.is_cancelled());
    assert!(!before.stale.is_cancelled(), "it takes the tenant's messages anyway");
    drop((second, before, outlook));
    assert!(tenancy.state().outlooks.is_empty());
}

#[test]
fn who_has_used_more_cpu_than_its_share_is_avoided_until_others_have_caught_up() {
    let tenancy = tenancy("[tenants.a]\n[tenants.b]\nweight = 4\n");
    let _places = [tenancy.enter("a").unwrap(), tenancy.enter("b").unwrap()];
    let avoided = || {
        let turn = &tenancy.outlook().turn;
        [turn.avoids("a"), turn.avoids("b")]
    };
    assert_eq!(avoided(), [false, false]);
    tenancy.charge("a", Duration::from_secs(1));
    assert_eq!(avoided(), [true, false]);
    tenancy.charge("b", Duration::from_secs(4));
    assert_eq!(avoided(), [false, false]);
    tenancy.charge("b", Duration::from_secs(1));
    assert_eq!(avoided(), [false, true]);
}

#[test]
fn who_was_away_has_saved_up_nothing() {
    let tenancy = tenancy("");
    let _place = tenancy.enter("a").unwrap();
    tenancy.charge("a", Duration::from_secs(100));
    drop(tenancy.outlook());
    let _late = tenancy.enter("b").unwrap();
    assert!(!tenancy.outlook().turn.avoids("a"), "b would have 100 seconds to itself");
}

#[test]
fn names_that_senders_make_up_do_not_pile_up() {
    let tenancy = tenancy("");
    for n in 0..10_000 {
        drop(tenancy.enter(&format!("tenant-{n}")).unwrap());
        if n % 100 == 0 {
            // As if time had passed.
            for account in tenancy.state().accounts.values_mut() {
                account.changed = account.changed.checked_sub(LATELY).unwrap();
            }
        }
    }
    assert!(tenancy.state().accounts.len() < 2 * KEPT);
}

proptest! {
    /// However jobs come and go: no tenant ever holds more than its quota, and places are not lost.
    #[test]
    fn a_quota_holds(moves in proptest::collection::vec((0_usize..4, any::<bool>()), 1..200)) {
        let names = ["a", "b", "c", ""];
        let tenancy = tenancy("worker.tenant_concurrency = 3\n[tenants.b]\nconcurrency = 1\n[tenants.a]\n");
        let quota = [3, 1, 3, usize::MAX];
        let mut held: [Vec<Option<Place>>; 4] = Default::default();
        for (who, enters) in moves {
            if enters {
                if let Ok(place) = tenancy.enter(names[who]) {
                    held[who].push(place);
                } else {
                    prop_assert_eq!(held[who].len(), quota[who]);
                }
            } else {
                held[who].pop();
            }
            prop_assert!(held[who].len() <= quota[who]);
            let room = quota[who].saturating_sub(held[who].len());
            if who < 3 {
                prop_assert_eq!(tenancy.outlook().turn.room(names[who]), room);
            }
        }
    }
}
