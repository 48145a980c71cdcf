//! Movers that die, and a control store that does not say what it did.

use super::world::{Mode, Watcher, World, acme, lives, rows, write};
use crate::relocate::{Error, Resumed, Step, abandoned, noted};
use crate::schema::tests::place::Place;
use portolan_changelog::{Closed, Error as StoreError};

pub(super) async fn a_crash_at_any_point_ends_in_one_place(place: Place) {
    let world = World::new(&place).await;
    let (mut here, mut there) = (&world.one, &world.two);
    let mut id = 100;
    for stop_at in 0.. {
        let watcher = Watcher::stops(stop_at);
        let relocation = world.relocation(here, there, &watcher);
        let before = rows(here).await;
        let result = relocation.run().await;
        let stopped = match result {
            Ok(_) => false,
            Err(Error::Stopped) => true,
            Err(error) => panic!("{stop_at}: {error:?}"),
        };
        // Whoever resumes may die, too: once after each thing that it does.
        for again in 0.. {
            if !matches!(
                world.relocation(here, there, &Watcher::stops(again)).resume().await,
                Err(Error::Stopped)
            ) {
                break;
            }
        }
        let resumed = world.relocation(here, there, &Watcher::default()).resume().await.unwrap();
        assert_eq!(resumed, Resumed::Nothing, "{stop_at}");
        id += 1;
        if world.control.is_at(there) {
            assert_eq!(rows(there).await, before, "{stop_at}");
            lives(there, here, id).await;
            world.relocation(here, there, &Watcher::default()).forget().await.unwrap();
            (here, there) = (there, here);
        } else {
            assert_eq!(rows(here).await, before, "{stop_at}");
            write(here, id).await.unwrap();
            assert_eq!(rows(there).await, [""; 0], "{stop_at}");
            let refused = write(there, id).await.unwrap_err();
            assert!(matches!(refused, StoreError::Closed(Closed::Away)), "{refused:?}");
        }
        for seat in [here, there] {
            assert_eq!(seat.store.moves(None).await.unwrap(), [], "{stop_at}");
        }
        if !stopped {
            assert!(stop_at > 10, "{stop_at}");
            break;
        }
    }
    world.bolt_is_untouched().await;
}

pub(super) async fn a_crash_of_an_undoing_ends_in_one_place(place: Place) {
    let world = World::new(&place).await;
    world.there().await.unwrap();
    let (mut here, mut kept) = (&world.two, &world.one);
    let mut ends = [0, 0];
    for stop_at in 0.. {
        write(here, 200 + i64::from(stop_at)).await.unwrap();
        let before = rows(here).await;
        let watcher = Watcher::stops(usize::try_from(stop_at).unwrap());
        let stopped = world.relocation(here, kept, &watcher).undo().await.is_err();
        for again in 0.. {
            if !matches!(
                world.relocation(here, kept, &Watcher::stops(again)).resume().await,
                Err(Error::Stopped)
            ) {
                break;
            }
        }
        let moved = world.control.is_at(kept);
        ends[usize::from(moved)] += 1;
        if moved {
            // What was left keeps its rows now.
            (here, kept) = (kept, here);
        }
        assert_eq!(rows(here).await, before, "{stop_at}");
        lives(here, kept, 300 + i64::from(stop_at)).await;
        assert_eq!(here.store.moves(None).await.unwrap(), [], "{stop_at}");
        assert_eq!(kept.store.moves(None).await.unwrap().len(), 1, "{stop_at}");
        if !stopped {
            break;
        }
    }
    assert!(ends.iter().all(|ends| *ends > 2), "{ends:?}");
}

pub(super) async fn the_control_store_decides(place: Place) {
    let world = World::new(&place).await;
    for mode in [Mode::Refuses, Mode::LostQuestion, Mode::Late] {
        *world.control.mode.lock().unwrap() = mode;
        let error = world.there().await.unwrap_err();
        assert!(matches!(error, Error::Aborted(_)), "{mode:?}: {error:?}");
        assert!(world.control.is_at(&world.one), "{mode:?}");
        lives(&world.one, &world.two, 10 + mode as i64).await;
    }
    // While it does not answer at all, the tenant is held: nobody guesses.
    *world.control.mode.lock().unwrap() = Mode::LostAnswer;
    *world.control.away.lock().unwrap() = true;
    let error = world.there().await.unwrap_err();
    assert!(matches!(error, Error::Unsettled(_)), "{error:?}");
    let refused = write(&world.one, 30).await.unwrap_err();
    assert!(matches!(refused, StoreError::Closed(Closed::Held)), "{refused:?}");
    let refused = write(&world.two, 30).await.unwrap_err();
    assert!(matches!(refused, StoreError::Closed(Closed::Away)), "{refused:?}");
    assert!(matches!(world.there().await, Err(Error::Underway { .. })));
    let watcher = Watcher::default();
    let relocation = world.relocation(&world.one, &world.two, &watcher);
    assert!(matches!(relocation.resume().await, Err(Error::Unsettled(_))));
    world.bolt_is_untouched().await;
    *world.control.away.lock().unwrap() = false;
    assert_eq!(relocation.resume().await.unwrap(), Resumed::Moved);
    lives(&world.two, &world.one, 30).await;
    // An answer that is lost is asked for at once.
    relocation.forget().await.unwrap();
    let back = world.relocation(&world.two, &world.one, &watcher);
    let before = rows(&world.two).await;
    back.run().await.unwrap();
    assert_eq!(rows(&world.one).await, before);
    lives(&world.one, &world.two, 31).await;
}

pub(super) async fn an_attempt_that_another_took_over_stops(place: Place) {
    let world = World::new(&place).await;
    for stop_at in [0, 2, 4, 6] {
        let watcher = Watcher::stops(stop_at);
        let relocation = world.relocation(&world.one, &world.two, &watcher);
        assert!(matches!(relocation.run().await, Err(Error::Stopped)));
        let note = world.one.store.moves(Some(&acme())).await.unwrap().remove(0);
        let resumed = world.relocation(&world.one, &world.two, &Watcher::default()).resume().await.unwrap();
        assert_eq!(resumed, Resumed::TakenBack);
        // It was not dead: it goes on from where it stood, and is refused.
        let error = relocation.turn(note, Step::Switched).await.unwrap_err();
        assert!(matches!(error, Error::Overtaken), "{error:?}");
        write(&world.one, 10 + stop_at as i64).await.unwrap();
        assert_eq!(rows(&world.two).await, [""; 0]);
    }
}

pub(super) async fn what_a_crash_leaves_is_found(place: Place) {
    let world = World::new(&place).await;
    let watcher = Watcher { name: "node-1", ..Watcher::stops(1) };
    let error = world.relocation(&world.one, &world.two, &watcher).run().await.unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error:?}");
    let found = noted(&world.one.store, None).await.unwrap();
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((found.mover.as_str(), found.step, found.sealed_ms), ("node-1", Step::Copying, None));
    assert_eq!((&found.moving.tenant, &found.moving.to.shard), (&acme(), &world.two.shard));
    assert_eq!(abandoned(&world.one.store, &world.two.store).await.unwrap(), [], "its source knows it");
    // A note that came to the target after its move had been taken back.
    let coming = world.two.store.moves(Some(&acme())).await.unwrap().remove(0);
    let resume = world.relocation(&world.one, &world.two, &Watcher::default()).resume().await;
    assert_eq!(resume.unwrap(), Resumed::TakenBack);
    world.two.store.note_move(&coming).await.unwrap();
    assert_eq!(abandoned(&world.one.store, &world.two.store).await.unwrap().len(), 1);
    let resume = world.relocation(&world.one, &world.two, &Watcher::default()).resume().await;
    assert_eq!(resume.unwrap(), Resumed::TakenBack);
    assert_eq!(world.two.store.moves(None).await.unwrap(), []);
    world.there().await.unwrap();
    let kept = noted(&world.one.store, Some(&acme())).await.unwrap().remove(0);
    assert!(kept.step == Step::Kept && kept.sealed_ms.is_some(), "{kept:?}");
    assert_eq!(noted(&world.two.store, None).await.unwrap(), [], "what comes is the other's");
}
