//! One reading of a feed. Khoros publishes neither the order of a feed nor how long events stay in it, so the
//! order is taken from the times of the events. No I/O.

use std::collections::HashSet;

use jiff::Timestamp;

/// How many events are requested at once.
const PAGE: u64 = 100;

/// An event of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    pub id: String,
    pub created: Option<Timestamp>,
}

/// The part of a feed to read next, as the last complete reading left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// The order is unknown.
    #[default]
    Whole,
    /// Newest first: from the beginning to the event that came first in the last reading.
    UpTo { event: String },
    /// Oldest first: from the last page of the last reading, which began with this event, to the end.
    From { offset: u64, event: String },
}

/// A reading, which may be interrupted and continued.
#[derive(Debug, Default)]
pub struct Reading {
    part: Part,
    /// The next request: up to `limit` events from `offset` on.
    pub offset: u64,
    pub limit: u64,
    pub is_complete: bool,
    first: Option<String>,
    /// Offset and first event of the last page that had new events.
    last_page: Option<(u64, String)>,
    known: HashSet<String>,
    times: Vec<Option<Timestamp>>,
}

impl Reading {
    pub fn new(part: Part) -> Reading {
        let offset = if let Part::From { offset, .. } = part { offset } else { 0 };
        Reading { part, offset, limit: PAGE, ..Reading::default() }
    }

    /// Halves the next request, because its answer was too long. False if it was for a single event.
    pub fn request_less(&mut self) -> bool {
        let is_less = self.limit > 1;
        self.limit = (self.limit / 2).max(1);
        is_less
    }

    /// Adds the next page. A page without unknown events completes the reading: some servers repeat their
    /// last page beyond the end of a list.
    pub fn add(&mut self, page: &[FeedEvent]) {
        let first = page.first().map(|event| &event.id);
        if let (true, Part::From { event, .. }) = (self.first.is_none(), &self.part)
            && first != Some(event)
        {
            // Old events have left the feed, and the new ones have moved up.
            *self = Reading::new(Part::Whole);
            return;
        }
        let known = self.known.len();
        for event in page {
            if self.known.insert(event.id.clone()) {
                self.times.push(event.created);
            }
        }
        let is_end = |event: &FeedEvent| matches!(&self.part, Part::UpTo { event: end } if *end == event.id);
        self.is_complete = self.known.len() == known || page.iter().any(is_end);
        if let (true, Some(first)) = (self.known.len() > known, first) {
            self.first.get_or_insert(first.clone());
            self.last_page = Some((self.offset, first.clone()));
        }
        self.offset += page.len() as u64;
        self.limit = (self.limit * 2).min(PAGE);
    }

    /// Ends the reading without knowing whether this is the end of the feed, so that the next one is whole.
    pub fn end_unsurely(&mut self) {
        if self.first.is_none() {
            return self.add(&[]);
        }
        self.times.push(None);
        self.is_complete = true;
    }

    /// The part that a complete reading leaves for the next one.
    pub fn next_part(self) -> Part {
        let times: Option<Vec<Timestamp>> = self.times.into_iter().collect();
        let (Some(times), Some(first), Some((offset, event))) = (times, self.first, self.last_page) else {
            return Part::Whole;
        };
        let (rises, falls) = (!times.is_sorted_by(|a, b| a >= b), !times.is_sorted());
        match (self.part, rises, falls) {
            (Part::UpTo { .. }, false, _) | (Part::Whole, false, true) => Part::UpTo { event: first },
            (Part::From { .. }, _, false) | (Part::Whole, true, false) => Part::From { offset, event },
            _ => Part::Whole,
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

    /// A feed, the events that have been read from it, and the part to read next.
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
        read: HashSet<String>,
        part: Part,
    }

    impl Model {
        fn new(newest_first: bool, times: Times) -> Model {
            let (feed, read) = (VecDeque::new(), HashSet::new());
            Model { newest_first, repeats: false, most: 100, times, feed, made: 0, read, part: Part::Whole }
        }

        fn add(&mut self, count: u64) {
            self.feed.extend(self.made..self.made + count);
            self.made += count;
        }

        fn prune(&mut self, count: usize) {
            self.feed.drain(..self.feed.len().min(count));
        }

        fn page(&self, offset: u64, limit: u64) -> Vec<FeedEvent> {
            let mut feed: Vec<u64> = self.feed.iter().copied().collect();
            if self.newest_first {
                feed.reverse();
            }
            let limit = self.most.min(limit as usize);
            let start = match (offset as usize) < feed.len() || !self.repeats || feed.is_empty() {
                true => feed.len().min(offset as usize),
                false => (feed.len() - 1) / limit * limit,
            };
            let created = |id| match self.times {
                Times::Rising => Some(Timestamp::from_second(id as i64).unwrap()),
                Times::Equal => Some(Timestamp::UNIX_EPOCH),
                Times::Missing => None,
            };
            let page = &feed[start..feed.len().min(start + limit)];
            page.iter().map(|id| FeedEvent { id: id.to_string(), created: created(*id) }).collect()
        }

        /// One reading; returns how many pages it took.
        fn read(&mut self) -> usize {
            let mut reading = Reading::new(self.part.clone());
            let mut pages = 0;
            while !reading.is_complete {
                let events = self.page(reading.offset, reading.limit);
                self.read.extend(events.iter().map(|event| event.id.clone()));
                reading.add(&events);
                pages += 1;
                assert!(pages < 5000, "the reading has no end");
            }
            self.part = reading.next_part();
            pages
        }
    }

    #[test]
    fn after_an_end_that_may_be_a_fault_the_next_reading_is_whole() {
        let event = |id: &str, second| FeedEvent {
            id: id.to_owned(),
            created: Some(Timestamp::from_second(second).unwrap()),
        };
        let page = [event("b", 2), event("a", 1)];
        let mut reading = Reading::new(Part::Whole);
        reading.add(&page);
        reading.end_unsurely();
        assert!(reading.is_complete);
        assert_eq!(reading.next_part(), Part::Whole);
        let mut reading = Reading::new(Part::Whole);
        reading.add(&page);
        reading.add(&[]);
        assert_eq!(reading.next_part(), Part::UpTo { event: "b".to_owned() });
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
                let missed = model.feed.iter().find(|id| !model.read.contains(&id.to_string()));
                assert_eq!(missed, None, "seed {seed}: {:?}", model.part);
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
        let event = |id: u64, second: i64| FeedEvent {
            id: id.to_string(),
            created: Timestamp::from_second(second).ok(),
        };
        let part = |seconds: &[i64]| {
            let page: Vec<FeedEvent> = (0..).zip(seconds).map(|(id, second)| event(id, *second)).collect();
            let mut reading = Reading::new(Part::Whole);
            reading.add(&page);
            reading.add(&[]);
            reading.next_part()
        };
        let first = || "0".to_owned();
        assert_eq!(part(&[1, 2, 2, 3]), Part::From { offset: 0, event: first() });
        assert_eq!(part(&[3, 2, 2, 1]), Part::UpTo { event: first() });
        assert_eq!(part(&[2, 1, 3, 4]), Part::Whole);
        let mut reading = Reading::new(Part::UpTo { event: "9".to_owned() });
        reading.add(&[event(1, 1), event(2, 2), event(9, 3)]);
        assert!(reading.is_complete);
        assert_eq!(reading.next_part(), Part::Whole, "it was never the newest first");
    }

    #[test]
    fn an_answer_that_is_too_long_is_requested_in_parts() {
        let mut reading = Reading::new(Part::Whole);
        let limits = (0..6).map(|_| {
            assert!(reading.request_less());
            reading.limit
        });
        assert_eq!(limits.collect::<Vec<_>>(), [50, 25, 12, 6, 3, 1]);
        assert!(!reading.request_less());
        reading.add(&[FeedEvent { id: "1".to_owned(), created: None }]);
        assert_eq!((reading.offset, reading.limit), (1, 2));
    }
}
