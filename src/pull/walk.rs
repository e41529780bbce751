//! Which page of a feed to read next. Neither is the order of a feed published, nor what is past its
//! end, nor for how long events stay in it. So new events are looked for at both ends.

use std::collections::HashSet;

/// As many events as are asked for at once.
const PAGE: u64 = 100;
/// So far before the end of the last reading the next one begins: events leave a feed, and what is
/// behind them moves up. More than a page, so that the last one is never all of it.
const OVERLAP: u64 = 101;
/// An answer too long to be taken, though it is to hold one event, is passed over: so many in a row.
const MOST_PASSED_OVER: u32 = 3;

/// An event, as far as it matters here.
pub type Id = u64;

/// What earlier readings have left: everything before `length` had been seen when the first page held
/// `heads`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub length: Option<u64>,
    heads: HashSet<Id>,
}

impl Mark {
    /// What is remembered across a restart: how long the feed was.
    pub fn of_length(length: Option<u64>) -> Mark {
        Mark { length, heads: HashSet::new() }
    }
}

/// One request for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub offset: u64,
    pub limit: u64,
}

/// What is to be done about an answer that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    AskForLess,
    /// This one event is passed over.
    PassOver(u64),
    /// It is too long whatever is asked for.
    GiveUp,
}

/// One reading of a feed.
///
/// It begins at offset 0, and goes on until a page brings nothing new and what the last reading saw
/// first has come again: in a feed with the newest first these are the new ones, and in one with the
/// oldest first the first page tells how many have left it. Then it goes to where the last reading
/// ended. If that place cannot be trusted, it reads everything between, too.
#[derive(Debug)]
pub struct Walk {
    before: Mark,
    part: Part,
    /// Up to where the feed is known to be seen. Only what this reading had not seen before counts: the
    /// rest was moved on by newer events, or is the last page, which some feeds repeat past their end.
    covered: u64,
    /// Of what newer events have moved on there can be a page, and it is passed.
    ahead: u64,
    is_idle: bool,
    limit: u64,
    /// What the first page of this reading held.
    heads: Option<HashSet<Id>>,
    seen: HashSet<Id>,
    met_a_head: bool,
    passed_over: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// From offset 0 on: everything before the page has been seen in this reading.
    Front,
    /// The next page is the first after a leap, from this offset.
    Landing {
        from: u64,
    },
    /// The next page is the second.
    Landed {
        from: u64,
        first: Option<Id>,
    },
    /// Where the last reading ended, and beyond.
    Tail,
    Over,
}

impl Walk {
    pub fn new(before: Mark) -> Walk {
        Walk {
            before,
            part: Part::Front,
            covered: 0,
            ahead: 0,
            is_idle: false,
            limit: PAGE,
            heads: None,
            seen: HashSet::new(),
            met_a_head: false,
            passed_over: 0,
        }
    }

    /// None: the reading is complete.
    pub fn next(&self) -> Option<Page> {
        let page = Page { offset: self.covered + self.ahead, limit: self.limit };
        (self.part != Part::Over).then_some(page)
    }

    /// Whether the next page is where an earlier reading has been, if the feed is as it was. Its first
    /// event tells: if that is not known, or there is none, [`Walk::turn_back`].
    pub fn has_leapt(&self) -> bool {
        matches!(self.part, Part::Landing { .. })
    }

    /// The feed is not as it was: everything has to be read.
    pub fn turn_back(&mut self) {
        if let Part::Landing { from } | Part::Landed { from, .. } = self.part {
            self.before = Mark::default();
            self.part = Part::Front;
            (self.covered, self.is_idle) = (from, false);
            // The pages from there are not where they were taken to be.
            self.seen.clear();
        }
    }

    /// Whether any page came.
    pub fn has_begun(&self) -> bool {
        self.heads.is_some()
    }

    /// A page came, and so many of its items were new to the inbox.
    pub fn took(&mut self, ids: &[Id], new: usize) {
        // The last page again, already: there is no telling where in the feed it is.
        if let Part::Landed { first: Some(first), .. } = self.part
            && ids.contains(&first)
        {
            return self.turn_back();
        }
        self.heads.get_or_insert_with(|| ids.iter().copied().collect());
        self.met_a_head |= ids.iter().any(|id| self.before.heads.contains(id));
        let unseen = ids.iter().filter(|id| self.seen.insert(**id)).count();
        let was_idle = std::mem::replace(&mut self.is_idle, unseen == 0);
        self.covered += unseen as u64;
        self.ahead += if self.is_idle { ids.len() as u64 } else { 0 };
        self.limit = (self.limit * 2).min(PAGE);
        self.passed_over = 0;
        match std::mem::replace(&mut self.part, Part::Tail) {
            _ if ids.is_empty() || self.is_idle && was_idle => self.part = Part::Over,
            Part::Front if unseen > 0 && self.knows_the_rest(new) => self.leap(),
            Part::Front => self.part = Part::Front,
            Part::Landing { from } => self.part = Part::Landed { from, first: ids.first().copied() },
            Part::Landed { .. } | Part::Tail | Part::Over => {}
        }
    }

    /// The answer was too long.
    pub fn was_too_long(&mut self) -> TooLong {
        if self.limit > 1 {
            self.limit /= 2;
            return TooLong::AskForLess;
        }
        if self.passed_over == MOST_PASSED_OVER {
            return TooLong::GiveUp;
        }
        self.passed_over += 1;
        self.covered += 1;
        TooLong::PassOver(self.covered + self.ahead - 1)
    }

    /// What the next reading can begin with, even if this one ends here.
    pub fn mark(&self) -> Mark {
        let here = self.covered;
        let is_behind = match self.part {
            Part::Front | Part::Over => false,
            Part::Landing { .. } | Part::Landed { .. } => true,
            // The end of the last reading is not reached, and is not to be written down again.
            Part::Tail => Some(here) < self.before.length,
        };
        match self.heads.clone().filter(|_| !is_behind) {
            Some(heads) => Mark { length: Some(here), heads },
            None => self.before.clone(),
        }
    }

    /// Whether all that is between this page and the end of the last reading has been seen.
    fn knows_the_rest(&self, new: usize) -> bool {
        let is_where_it_was = self.before.heads.is_empty() || self.met_a_head;
        self.before.length.is_some() && new == 0 && is_where_it_was
    }

    fn leap(&mut self) {
        let from = self.covered;
        let to = self.before.length.unwrap_or(0).saturating_sub(OVERLAP);
        self.part = match to > from {
            true => Part::Landing { from },
            false => Part::Tail,
        };
        self.covered = to.max(from);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A feed and what the inbox knows of it.
    #[derive(Default)]
    struct Model {
        newest_first: bool,
        /// Past the end there is the last page again.
        repeats: bool,
        /// It gives no more at once, whatever is asked for.
        most: usize,
        /// The oldest first.
        feed: VecDeque<Id>,
        made: Id,
        known: HashSet<Id>,
        /// What would have been remembered, after each page.
        lengths: HashSet<u64>,
    }

    impl Model {
        fn add(&mut self, count: u64) {
            self.feed.extend(self.made..self.made + count);
            self.made += count;
        }

        fn prune(&mut self, count: u64) {
            self.feed.drain(..self.feed.len().min(count as usize));
        }

        fn page(&self, page: Page) -> Vec<Id> {
            let feed: Vec<Id> = match self.newest_first {
                true => self.feed.iter().rev().copied().collect(),
                false => self.feed.iter().copied().collect(),
            };
            let limit = self.most.min(page.limit as usize);
            let start = match (page.offset as usize) < feed.len() || !self.repeats || feed.is_empty() {
                true => feed.len().min(page.offset as usize),
                false => (feed.len() - 1) / limit * limit,
            };
            feed[start..feed.len().min(start + limit)].to_vec()
        }

        /// One reading of so many pages at the most; `meanwhile` happens between them.
        fn read(&mut self, mark: &mut Mark, pages: usize, mut meanwhile: impl FnMut(&mut Model)) -> Read {
            let mut walk = Walk::new(mark.clone());
            for read in 0..pages {
                let Some(page) = walk.next() else { return Read::Complete(read) };
                let ids = self.page(page);
                if walk.has_leapt() && ids.first().is_none_or(|first| !self.known.contains(first)) {
                    walk.turn_back();
                } else {
                    let new = ids.iter().filter(|id| self.known.insert(**id)).count();
                    walk.took(&ids, new);
                }
                *mark = walk.mark();
                self.lengths.extend(mark.length);
                meanwhile(self);
            }
            Read::Interrupted
        }

        fn missing(&self) -> Vec<Id> {
            self.feed.iter().filter(|id| !self.known.contains(id)).copied().collect()
        }
    }

    #[derive(Debug, PartialEq)]
    enum Read {
        /// With so many pages.
        Complete(usize),
        Interrupted,
    }

    /// Readings that are complete, and some that are not, of a feed in which anything happens.
    fn for_any_feed(mut happens: impl FnMut(&mut fastrand::Rng, &mut Model, &mut Mark)) {
        for seed in 0..150 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let most = rng.choice([30, 100, 1000]).unwrap();
            let (newest_first, repeats) = (rng.bool(), rng.bool());
            let mut model = Model { newest_first, repeats, most, ..Model::default() };
            let mut mark = Mark::default();
            for _ in 0..12 {
                let most = rng.choice([5, 90, 700]).unwrap();
                model.add(rng.u64(0..most));
                if rng.bool() {
                    model.prune(rng.u64(0..most));
                }
                happens(&mut rng, &mut model, &mut mark);
                if rng.u8(0..3) == 0 {
                    model.read(&mut mark, rng.usize(0..6), |_| {});
                    continue;
                }
                let there = model.feed.clone();
                let read = model.read(&mut mark, 500, |model| model.add(rng.u64(0..5).saturating_sub(2)));
                assert!(matches!(read, Read::Complete(_)), "seed {seed} has no end");
                let missing: Vec<Id> = model.missing();
                let missing = missing.iter().find(|id| there.contains(id));
                assert_eq!(missing, None, "seed {seed}: {mark:?}");
            }
        }
    }

    #[test]
    fn what_pushes_bring_hides_nothing() {
        for_any_feed(|rng, model, _| {
            let lost = rng.u8(0..=100);
            let pushed: Vec<Id> = model.feed.iter().copied().filter(|_| rng.u8(0..100) >= lost).collect();
            model.known.extend(pushed);
        });
    }

    #[test]
    fn after_a_restart_the_length_is_enough() {
        for_any_feed(|rng, _, mark| {
            if rng.bool() {
                *mark = Mark::of_length(mark.length);
            }
        });
    }

    #[test]
    fn an_empty_inbox_reads_everything_again() {
        for_any_feed(|rng, model, mark| {
            if rng.u8(0..4) == 0 {
                (model.known, *mark) = Default::default();
            }
        });
    }

    #[test]
    fn a_quiet_reading_is_short_and_changes_nothing() {
        let orders = [(false, false), (false, true), (true, false), (true, true)];
        let feeds = orders.iter().flat_map(|order| [(order, 100, 4), (order, 30, 6)]);
        for ((newest_first, repeats), most, pages) in feeds {
            let (newest_first, repeats) = (*newest_first, *repeats);
            let mut model = Model { newest_first, repeats, most, ..Model::default() };
            let mut mark = Mark::default();
            model.add(2550);
            model.read(&mut mark, 500, |_| {});
            let (first, known) = (mark.clone(), model.known.len());
            model.lengths.clear();
            assert_eq!(
                (model.read(&mut mark, 500, |_| {}), known),
                (Read::Complete(pages + usize::from(repeats)), 2550)
            );
            assert_eq!(mark, first);
            assert_eq!(model.lengths, HashSet::from([2550]), "nothing is written");
        }
    }

    /// The place where the last reading ended is beyond the end by now, and the page there is one of
    /// events that were pushed.
    #[test]
    fn a_last_page_that_is_repeated_is_not_mistaken_for_the_place() {
        let mut model = Model { repeats: true, most: 100, ..Model::default() };
        let mut mark = Mark::default();
        model.add(1000);
        model.read(&mut mark, 500, |_| {});
        model.prune(850);
        model.add(150);
        model.known.extend(1050..1150);
        let mut restarted = Mark::of_length(mark.length);
        assert_eq!(model.missing(), Vec::from_iter(1000..1050));
        model.read(&mut restarted, 500, |_| {});
        assert_eq!((model.missing(), restarted.length), (Vec::new(), Some(300)));
    }

    #[test]
    fn what_gives_always_the_same_comes_to_an_end() {
        let ids: Vec<Id> = (0..250).collect();
        let mut mark = Mark::default();
        for new in [250, 0, 0] {
            let mut walk = Walk::new(mark);
            let mut pages = 0;
            while walk.next().is_some() {
                walk.took(&ids, if pages == 0 { new } else { 0 });
                pages += 1;
            }
            assert_eq!(pages, 3);
            mark = walk.mark();
            assert_eq!(mark.length, Some(250));
        }
    }

    #[test]
    fn an_answer_that_is_too_long_is_asked_for_in_parts() {
        let mut walk = Walk::new(Mark::default());
        let limits = (0..6).map(|_| {
            assert_eq!(walk.was_too_long(), TooLong::AskForLess);
            walk.next().unwrap().limit
        });
        assert_eq!(limits.collect::<Vec<_>>(), [50, 25, 12, 6, 3, 1]);
        for offset in 0..3 {
            assert_eq!(walk.was_too_long(), TooLong::PassOver(offset));
        }
        assert_eq!(walk.was_too_long(), TooLong::GiveUp);
        walk.took(&[1], 1);
        assert_eq!(walk.next(), Some(Page { offset: 4, limit: 2 }));
        assert_eq!(walk.was_too_long(), TooLong::AskForLess);
        assert_eq!(walk.was_too_long(), TooLong::PassOver(4));
        assert_eq!(walk.mark().length, Some(5));
    }
}
