//! What every store promises. [`suite!`] makes one test a promise.

// A promise that stands in no list would never be tested: then it is dead code, and no build.
#![deny(dead_code)]

use std::{sync::Arc, time::Duration};

use lovage::keyvalue::{
    MAX_KEY_BYTES, Namespace, PAGE_KEYS, Quota, Quotas, Store, StoreError, Swap,
};

use super::{Fixture, WIDE};

/// Longer than any operation takes.
pub(super) const LONG: Duration = Duration::from_mins(1);

macro_rules! suite {
    ($fixture:path) => {
        $crate::keyvalue::suite::suite! { @each $fixture;
            values_are_kept_as_they_are
            a_batch_is_set_whole_or_not_at_all
            buckets_are_apart_whatever_their_names
            quotas_hold_and_say_what_raises_them
            quotas_hold_when_many_write_at_once
            increments_lose_nothing
            numbers_have_64_bits
            a_swap_is_made_only_over_what_was_read
            swaps_lose_nothing
            a_listing_has_every_key_once
            an_answer_is_bounded
        }
    };
    (@each $fixture:path; $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::keyvalue::suite::$promise(&$fixture()).await;
            }
        )*
    };
}
pub(super) use suite;

fn bucket(name: &str) -> Namespace {
    Namespace::new("acme", name)
}

async fn set(
    store: &dyn Store,
    bucket: &Namespace,
    key: &str,
    value: &[u8],
) -> Result<(), StoreError> {
    store.set(bucket, vec![(key.to_owned(), value.to_vec())]).await
}

async fn get(store: &dyn Store, bucket: &Namespace, key: &str) -> Option<Vec<u8>> {
    store.get(bucket, vec![key.to_owned()]).await.unwrap().pop().unwrap()
}

fn quota_of(refused: Result<(), StoreError>) -> (Quota, u64, u64) {
    match refused {
        Err(StoreError::Quota { quota, asked, allowed }) => (quota, asked, allowed),
        other => panic!("{other:?}"),
    }
}

pub async fn values_are_kept_as_they_are(fixture: &impl Fixture) {
    let store = fixture.store(WIDE);
    let b = bucket("b");
    let every_byte: Vec<u8> = (0..=255).collect();
    let longest = "x".repeat(MAX_KEY_BYTES);
    let keys = ["", "a", "a\0b", "\0", "ä", "日本", "../a", "a b\n", "{x}", "*", longest.as_str()];
    for key in keys {
        assert_eq!(get(&*store, &b, key).await, None);
        assert!(!store.exists(&b, key.to_owned()).await.unwrap());
        for value in [&every_byte[..], b"", b"1"] {
            set(&*store, &b, key, value).await.unwrap();
            assert_eq!(get(&*store, &b, key).await.as_deref(), Some(value), "{key:?}");
        }
        assert!(store.exists(&b, key.to_owned()).await.unwrap());
    }
    let many = store.get(&b, vec!["a".into(), "none".into(), "ä".into(), "a".into()]).await;
    let one = Some(b"1".to_vec());
    assert_eq!(many.unwrap(), [one.clone(), None, one.clone(), one]);
    store.delete(&b, vec!["a".into(), "none".into(), "a".into()]).await.unwrap();
    assert_eq!(get(&*store, &b, "a").await, None);
    assert_eq!(store.list(&b, None).await.unwrap().keys.len(), keys.len() - 1);
    store.delete(&b, keys.map(str::to_owned).to_vec()).await.unwrap();
    assert!(store.list(&b, None).await.unwrap().keys.is_empty());
    assert_eq!(store.get(&b, Vec::new()).await.unwrap(), Vec::<Option<Vec<u8>>>::new());
    store.set(&b, Vec::new()).await.unwrap();
    store.delete(&b, Vec::new()).await.unwrap();
}

pub async fn a_batch_is_set_whole_or_not_at_all(fixture: &impl Fixture) {
    let store = fixture.store(Quotas { max_keys: 2, ..WIDE });
    let b = bucket("b");
    let entries = |keys: &[&str]| keys.iter().map(|&key| (key.to_owned(), b"v".to_vec())).collect();
    assert_eq!(quota_of(store.set(&b, entries(&["a", "b", "c"])).await), (Quota::Keys, 3, 2));
    assert!(store.list(&b, None).await.unwrap().keys.is_empty());
    // One key three times is one key, and its last value counts.
    let thrice = ["1", "22", "333"].map(|value| ("a".to_owned(), value.as_bytes().to_vec()));
    store.set(&b, thrice.to_vec()).await.unwrap();
    assert_eq!(get(&*store, &b, "a").await.unwrap(), b"333");
    let large = vec![("b".to_owned(), b"v".to_vec()), ("a".to_owned(), vec![0; (1 << 20) + 1])];
    assert_eq!(quota_of(store.set(&b, large).await).0, Quota::ValueBytes);
    assert_eq!(get(&*store, &b, "b").await, None);
    store.set(&b, entries(&["a", "b"])).await.unwrap();
}

pub async fn buckets_are_apart_whatever_their_names(fixture: &impl Fixture) {
    let store = fixture.store(WIDE);
    let long = "n".repeat(5000);
    let names = [
        "",
        "a",
        "../a",
        "a/../b",
        "b",
        "/",
        ":",
        "a:b",
        "%",
        "%3a",
        "\0",
        "a\0b",
        "{a}",
        "}{",
        "*",
        "?",
        "[a]",
        "'",
        "\"; DROP TABLE entries; --",
        " ",
        "\r\n",
        "ä",
        "a\u{308}",
        "日本",
        &long,
    ];
    for tenant in names {
        for name in names {
            let namespace = Namespace::new(tenant, name);
            assert_eq!(get(&*store, &namespace, "k").await, None, "{tenant:?} {name:?}");
            set(&*store, &namespace, "k", format!("{tenant}\u{1}{name}").as_bytes()).await.unwrap();
        }
    }
    for tenant in names {
        for name in names {
            let namespace = Namespace::new(tenant, name);
            let value = get(&*store, &namespace, "k").await.unwrap();
            assert_eq!(value, format!("{tenant}\u{1}{name}").as_bytes());
            assert_eq!(store.list(&namespace, None).await.unwrap().keys, ["k"]);
        }
    }
}

pub async fn quotas_hold_and_say_what_raises_them(fixture: &impl Fixture) {
    let store = fixture.store(Quotas { max_keys: 3, max_bytes: 20, max_value_bytes: 10 });
    let (b, other) = (bucket("b"), Namespace::new("umbrella", "b"));
    assert_eq!(quota_of(set(&*store, &b, "k", &[0; 11]).await), (Quota::ValueBytes, 11, 10));
    // Keys count as their values do.
    set(&*store, &b, "k1", &[0; 8]).await.unwrap();
    set(&*store, &b, "k2", &[0; 8]).await.unwrap();
    assert_eq!(quota_of(set(&*store, &b, "k3", b"").await), (Quota::Bytes, 22, 20));
    assert_eq!(quota_of(set(&*store, &b, "k1", &[0; 9]).await), (Quota::Bytes, 21, 20));
    // Another tenant has its own.
    set(&*store, &other, "k3", &[0; 8]).await.unwrap();
    // What is replaced or deleted makes room.
    set(&*store, &b, "k1", &[0; 1]).await.unwrap();
    set(&*store, &b, "k3", &[0; 5]).await.unwrap();
    assert_eq!(quota_of(set(&*store, &b, "4", b"").await), (Quota::Keys, 4, 3));
    let incremented = store.increment(&b, "4".to_owned(), 1).await.map(drop);
    assert_eq!(quota_of(incremented), (Quota::Keys, 4, 3));
    let swapped = store.swap(&b, "4".to_owned(), None, b"v".to_vec()).await.map(drop);
    assert_eq!(quota_of(swapped), (Quota::Keys, 4, 3));
    store.delete(&b, vec!["k1".into(), "k2".into(), "k3".into()]).await.unwrap();
    for key in ["k1", "k2"] {
        set(&*store, &b, key, &[0; 8]).await.unwrap();
    }
    let refused = set(&*store, &b, "k3", b"").await.unwrap_err().to_string();
    assert_eq!(
        refused,
        "the bucket would hold 22 bytes, and 20 bytes are allowed (`keyvalue.max_bytes` raises it)"
    );
}

pub async fn quotas_hold_when_many_write_at_once(fixture: &impl Fixture) {
    let store = fixture.store(Quotas { max_keys: 10, ..WIDE });
    let writes = (0..40).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { set(&*store, &bucket("b"), &format!("k{n}"), b"v").await })
    });
    let mut refused = 0;
    for write in writes.collect::<Vec<_>>() {
        if let Err(error) = write.await.unwrap() {
            assert_eq!(quota_of(Err(error)), (Quota::Keys, 11, 10));
            refused += 1;
        }
    }
    assert_eq!(refused, 30);
    assert_eq!(store.list(&bucket("b"), None).await.unwrap().keys.len(), 10);
}

pub async fn increments_lose_nothing(fixture: &impl Fixture) {
    let store = fixture.store(WIDE);
    let tasks = (0..16).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..10 {
                store.increment(&bucket("b"), "n".to_owned(), 3).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(get(&*store, &bucket("b"), "n").await.unwrap(), b"480");
}

pub async fn numbers_have_64_bits(fixture: &impl Fixture) {
    let store = fixture.store(WIDE);
    let b = bucket("b");
    let add = async |key: &str, delta: i64| store.increment(&b, key.to_owned(), delta).await;
    // Doubles end at 2⁵³.
    assert_eq!(add("n", (1 << 53) + 1).await, Ok(9_007_199_254_740_993));
    assert_eq!(add("n", 2).await, Ok(9_007_199_254_740_995));
    assert_eq!(add("least", i64::MIN).await, Ok(i64::MIN));
    assert_eq!(add("least", -1).await, Err(StoreError::Overflow));
    assert_eq!(add("most", i64::MAX).await, Ok(i64::MAX));
    assert_eq!(add("most", 1).await, Err(StoreError::Overflow));
    assert_eq!(get(&*store, &b, "most").await.unwrap(), i64::MAX.to_string().as_bytes());
    for text in ["", "x", "+1", "01", " 1", "1.5", "-0", &"9".repeat(1000)] {
        set(&*store, &b, "text", text.as_bytes()).await.unwrap();
        assert_eq!(add("text", 1).await, Err(StoreError::NotANumber), "{text}");
        assert_eq!(get(&*store, &b, "text").await.unwrap(), text.as_bytes());
    }
    set(&*store, &b, "text", b"41").await.unwrap();
    assert_eq!(add("text", 1).await, Ok(42));
    assert_eq!(add("text", -43).await, Ok(-1));
}

pub async fn a_swap_is_made_only_over_what_was_read(fixture: &impl Fixture) {
    let store = fixture.store(WIDE);
    let b = bucket("b");
    let read = async || store.read(&b, "k".to_owned()).await.unwrap();
    let swap = async |expected, value: &str| {
        store.swap(&b, "k".to_owned(), expected, value.as_bytes().to_vec()).await.unwrap()
    };
    assert_eq!(read().await, None);
    assert_eq!(swap(None, "one").await, Swap::Done);
    let (first, value) = read().await.unwrap();
    assert_eq!(value, b"one");
    assert_eq!(swap(None, "two").await, Swap::Stale(Some(first)));
    // The same value again is another one.
    set(&*store, &b, "k", b"one").await.unwrap();
    let (second, _) = read().await.unwrap();
    assert_eq!(swap(Some(first), "two").await, Swap::Stale(Some(second)));
    assert_eq!(swap(Some(second), "two").await, Swap::Done);
    assert_eq!(read().await.unwrap().1, b"two");
    let (third, _) = read().await.unwrap();
    store.delete(&b, vec!["k".to_owned()]).await.unwrap();
    assert_eq!(swap(Some(third), "three").await, Swap::Stale(None));
    // Nor does one come back that was deleted and made anew.
    set(&*store, &b, "k", b"two").await.unwrap();
    assert!(matches!(swap(Some(third), "three").await, Swap::Stale(Some(_))));
}

pub async fn swaps_lose_nothing(fixture: &impl Fixture) {
    let store = fixture.store(WIDE);
    let add_one = async |store: &dyn Store| loop {
        let b = bucket("b");
        let found = store.read(&b, "n".to_owned()).await.unwrap();
        let (version, value) = found.unzip();
        let text = String::from_utf8(value.unwrap_or_else(|| b"0".to_vec())).unwrap();
        let next = (text.parse::<u64>().unwrap() + 1).to_string().into_bytes();
        if store.swap(&b, "n".to_owned(), version, next).await.unwrap() == Swap::Done {
            break;
        }
    };
    let tasks = (0..4).map(|_| {
        let store = Arc::clone(&store);
        async move {
            for _ in 0..10 {
                add_one(&*store).await;
            }
        }
    });
    futures_util::future::join_all(tasks).await;
    assert_eq!(get(&*store, &bucket("b"), "n").await.unwrap(), b"40");
}

pub async fn a_listing_has_every_key_once(fixture: &impl Fixture) {
    let store = fixture.store(WIDE);
    let b = bucket("b");
    let count = PAGE_KEYS * 2 + 1;
    let entries = |from: usize, to: usize| {
        (from..to).map(|n| (format!("k{n}"), b"v".to_vec())).collect::<Vec<_>>()
    };
    for from in (0..count).step_by(500) {
        store.set(&b, entries(from, count.min(from + 500))).await.unwrap();
    }
    let first = store.list(&b, None).await.unwrap();
    assert_eq!(first.keys.len(), PAGE_KEYS);
    // What is written or taken away meanwhile makes no other key appear twice, or not at all.
    store.set(&b, entries(0, 500)).await.unwrap();
    store.delete(&b, first.keys[..100].to_vec()).await.unwrap();
    let second = store.list(&b, first.next).await.unwrap();
    let third = store.list(&b, second.next).await.unwrap();
    assert_eq!((second.keys.len(), third.keys.len(), third.next), (PAGE_KEYS, 1, None));
    let mut all: Vec<_> = [first.keys, second.keys, third.keys].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
    // Cursors come from guests, and may be anything.
    for cursor in [u64::MAX, 1 << 63, 1 << 53] {
        let page = store.list(&b, Some(cursor)).await.unwrap();
        assert!(page.keys.is_empty() && page.next.is_none());
    }
    let exact = bucket("exact");
    store.set(&exact, entries(0, PAGE_KEYS)).await.unwrap();
    let page = store.list(&exact, None).await.unwrap();
    assert_eq!((page.keys.len(), page.next), (PAGE_KEYS, None));
}

pub async fn an_answer_is_bounded(fixture: &impl Fixture) {
    let store = fixture.store(WIDE);
    let b = bucket("b");
    set(&*store, &b, "k", &vec![0; 1 << 20]).await.unwrap();
    let keys = |count: usize| vec!["k".to_owned(); count];
    assert_eq!(store.get(&b, keys(16)).await.unwrap().len(), 16);
    let refused = store.get(&b, keys(17)).await.map(drop);
    let (quota, asked, allowed) = quota_of(refused);
    assert_eq!((quota, asked, allowed), (Quota::AnswerBytes, 17 << 20, 16 << 20));
}
