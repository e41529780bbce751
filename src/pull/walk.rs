//! Which page of a feed to read next. Khoros publishes neither the order of a feed nor how long events stay in
//! it, so the order is taken from the times of the events.

use std::collections::HashSet;

use jiff::Timestamp;

/// As many events as are asked for at once.
const PAGE: u64 = 100;

/// What a page holds of an event, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: u64,
    pub made: Option<Timestamp>,
}

/// What a complete reading leaves for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Nothing: the next reading reads everything.
    #[default]
    Nothing,
    /// Newest first: this event came first, so everything behind it has been read.
    NewestFirst { first: u64 },
    /// Oldest first: the last page began at this offset, with this event.
    OldestFirst { offset: u64, event: u64 },
}

/// One request for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub offset: u64,
    pub limit: u64,
}

/// One reading of a feed: from where its mark says to where the feed is known, or to its end.
#[derive(Debug)]
pub struct Walk {
    mark: Mark,
    offset: u64,
    limit: u64,
    first: Option<u64>,
    last_made: Option<Timestamp>,
    /// What the times of consecutive events show.
    rises: bool,
    falls: bool,
    /// Something keeps the end of this reading, or its order, from being known.
    is_unsure: bool,
    /// Offset and first event of the last page that held any.
    last_page: Option<(u64, u64)>,
    seen: HashSet<u64>,
    is_over: bool,
}

impl Walk {
    pub fn new(mark: Mark) -> Walk {
        let offset = if let Mark::OldestFirst { offset, .. } = mark { offset } else { 0 };
        Walk {
            mark,
            offset,
            limit: PAGE,
            first: None,
            last_made: None,
            rises: false,
            falls: false,
            is_unsure: false,
            last_page: None,
            seen: HashSet::new(),
            is_over: false,
        }
    }

    /// The page to read; `None` at the end.
    pub fn next(&self) -> Option<Page> {
        (!self.is_over).then_some(Page { offset: self.offset, limit: self.limit })
    }

    /// Takes the events of a page, whose order is that of the feed.
    pub fn took(&mut self, page: &[Event]) {
        if self.first.is_none()
            && let Mark::OldestFirst { event, .. } = self.mark
            && page.first().is_none_or(|first| first.id != event)
        {
            // Old events have left the feed, and the new ones are where they were not looked for.
            *self = Walk::new(Mark::Nothing);
            return;
        }
        let mut unseen = 0;
        for event in page {
            if self.seen.insert(event.id) {
                unseen += 1;
                self.compare(event.made);
            }
        }
        self.first = self.first.or(page.first().map(|first| first.id));
        if unseen > 0 {
            self.last_page = page.first().map(|first| (self.offset, first.id));
        }
        let is_known = |event: &Event| self.mark == Mark::NewestFirst { first: event.id };
        // Some servers repeat the last page beyond the end of a list.
        self.is_over = unseen == 0 || page.iter().any(is_known);
        self.offset += page.len() as u64;
        self.limit = (self.limit * 2).min(PAGE);
    }

    fn compare(&mut self, made: Option<Timestamp>) {
        let is_next = self.seen.len() > 1;
        match (self.last_made, made) {
            (Some(last), Some(made)) => {
                self.rises |= made > last;
                self.falls |= made < last;
            }
            (None, Some(_)) if !is_next => {}
            _ => self.is_unsure = true,
        }
        self.last_made = made;
    }

    /// The feed ends here, if the server means it.
    pub fn ended(&mut self) {
        if self.first.is_none() {
            return self.took(&[]);
        }
        (self.is_over, self.is_unsure) = (true, true);
    }

    /// Skips one event, which is too long by itself; returns its offset.
    pub fn skip(&mut self) -> u64 {
        self.offset += 1;
        self.offset - 1
    }

    /// Asks for half as much, since the answer was too long.
    pub fn ask_for_less(&mut self) {
        self.limit = (self.limit / 2).max(1);
    }

    /// What this reading, which is complete, leaves for the next one.
    pub fn mark(&self) -> Mark {
        let (Some(first), Some((offset, event)), false) = (self.first, self.last_page, self.is_unsure) else {
            return Mark::Nothing;
        };
        match (self.mark, self.rises, self.falls) {
            (Mark::NewestFirst { .. }, false, _) | (Mark::Nothing, false, true) => {
                Mark::NewestFirst { first }
            }
            (Mark::OldestFirst { .. }, _, false) | (Mark::Nothing, true, false) => {
                Mark::OldestFirst { offset, event }
            }
            _ => Mark::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[derive(Clone, Copy, PartialEq)]
    enum Times {
        Rising,
        Equal,
        Missing,
    }

    /// A feed, the events that have been read from it, and the mark of the last reading.
    struct Model {
        newest_first: bool,
        /// Beyond the end the last page comes again.
        repeats: bool,
        /// The most events that the server puts into a page.
        most: usize,
        times: Times,
        /// The oldest first.
        feed: VecDeque<u64>,
        made: u64,
        read: HashSet<u64>,
        mark: Mark,
    }

    impl Model {
        fn new(newest_first: bool, times: Times) -> Model {
            let (feed, read) = (VecDeque::new(), HashSet::new());
            Model { newest_first, repeats: false, most: 100, times, feed, made: 0, read, mark: Mark::Nothing }
        }

        fn add(&mut self, count: u64) {
            self.feed.extend(self.made..self.made + count);
            self.made += count;
        }

        fn prune(&mut self, count: usize) {
            self.feed.drain(..self.feed.len().min(count));
        }

        fn page(&self, page: Page) -> Vec<Event> {
            let mut feed: Vec<u64> = self.feed.iter().copied().collect();
            if self.newest_first {
                feed.reverse();
            }
            let limit = self.most.min(page.limit as usize);
            let start = match (page.offset as usize) < feed.len() || !self.repeats || feed.is_empty() {
                true => feed.len().min(page.offset as usize),
                false => (feed.len() - 1) / limit * limit,
            };
            let made = |id| match self.times {
                Times::Rising => Some(Timestamp::from_second(id as i64).unwrap()),
                Times::Equal => Some(Timestamp::UNIX_EPOCH),
                Times::Missing => None,
            };
            let page = &feed[start..feed.len().min(start + limit)];
            page.iter().map(|id| Event { id: *id, made: made(*id) }).collect()
        }

        /// One reading; returns how many pages it took.
        fn read(&mut self) -> usize {
            let mut walk = Walk::new(self.mark);
            let mut pages = 0;
            while let Some(page) = walk.next() {
                let events = self.page(page);
                self.read.extend(events.iter().map(|event| event.id));
                walk.took(&events);
                pages += 1;
                assert!(pages < 5000, "the reading has no end");
            }
            self.mark = walk.mark();
            pages
        }
    }

    #[test]
    fn a_reading_misses_nothing() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let times = rng.choice([Times::Rising, Times::Equal, Times::Missing]).unwrap();
            let mut model = Model::new(rng.bool(), times);
            model.repeats = rng.bool();
            model.most = rng.choice([1, 30, 100, 1000]).unwrap();
            for _ in 0..12 {
                let most = rng.choice([5, 90, 300]).unwrap();
                model.add(rng.u64(0..most));
                if rng.bool() {
                    model.prune(rng.usize(0..most as usize));
                }
                model.read();
                let missed = model.feed.iter().find(|id| !model.read.contains(id));
                assert_eq!(missed, None, "seed {seed}: {:?}", model.mark);
            }
        }
    }

    #[test]
    fn a_feed_of_known_order_is_read_where_it_grows() {
        for (newest_first, pages) in [(true, 1), (false, 2)] {
            let mut model = Model::new(newest_first, Times::Rising);
            model.add(1050);
            assert_eq!(model.read(), 12);
            model.add(3);
            assert_eq!(model.read(), pages);
            assert_eq!(model.read.len(), 1053);
            model.prune(400);
            model.add(3);
            assert_eq!(model.read(), if newest_first { 1 } else { 9 });
            assert_eq!(model.read.len(), 1056);
        }
    }

    #[test]
    fn a_feed_of_unknown_order_is_read_whole() {
        for times in [Times::Equal, Times::Missing] {
            let mut model = Model::new(false, times);
            model.add(250);
            assert_eq!([model.read(), model.read()], [4, 4]);
        }
    }

    #[test]
    fn a_feed_whose_times_rise_and_fall_has_no_order() {
        let event = |id: u64, second: i64| Event { id, made: Timestamp::from_second(second).ok() };
        let mark = |seconds: &[i64]| {
            let page: Vec<Event> = (0..).zip(seconds).map(|(id, second)| event(id, *second)).collect();
            let mut walk = Walk::new(Mark::Nothing);
            walk.took(&page);
            walk.took(&[]);
            walk.mark()
        };
        assert_eq!(mark(&[1, 2, 2, 3]), Mark::OldestFirst { offset: 0, event: 0 });
        assert_eq!(mark(&[3, 2, 2, 1]), Mark::NewestFirst { first: 0 });
        assert_eq!(mark(&[2, 1, 3, 4]), Mark::Nothing);
        let mut walk = Walk::new(Mark::NewestFirst { first: 9 });
        walk.took(&[event(1, 1), event(2, 2), event(9, 3)]);
        assert_eq!((walk.next(), walk.mark()), (None, Mark::Nothing), "it was never the newest first");
    }

    #[test]
    fn an_end_that_may_be_a_fault_is_not_trusted() {
        let mut model = Model::new(true, Times::Rising);
        model.add(250);
        let mut walk = Walk::new(Mark::Nothing);
        walk.took(&model.page(walk.next().unwrap()));
        walk.ended();
        assert_eq!((walk.next(), walk.mark()), (None, Mark::Nothing));
    }

    #[test]
    fn an_answer_that_is_too_long_is_asked_for_in_parts() {
        let mut walk = Walk::new(Mark::Nothing);
        let limits = (0..6).map(|_| {
            walk.ask_for_less();
            walk.next().unwrap().limit
        });
        assert_eq!(limits.collect::<Vec<_>>(), [50, 25, 12, 6, 3, 1]);
        assert_eq!(walk.skip(), 0);
        walk.took(&[Event { id: 1, made: None }]);
        assert_eq!(walk.next(), Some(Page { offset: 2, limit: 2 }));
    }
}
