//! The nodes that can take one more pod of a batch, the best first. Owned by `scheduler`'s batch.
//!
//! Nodes of the same domains are a class: they differ only in what is their own, so that a class is a heap that the
//! spread of pods cannot disorder. Above them is a heap of classes by their best node. What it knows of a class may
//! be too good, for domains fill up; never too bad. So the top is looked at again before it is taken. A class
//! that a constraint forbids waits until the constraint's least domain has come up to what it needs.
//!
//! Invariant: every node put in is in exactly one class, and every class with nodes is open or waits.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use super::{
    score::Score,
    spread::{Place, Spread},
};

pub struct Queue {
    classes: Vec<Class>,
    by_place: HashMap<Place, usize>,
    open: BinaryHeap<Reverse<(Score, usize)>>,
    /// For each constraint, classes by what its least domain must have.
    waiting: Vec<BTreeMap<u32, Vec<usize>>>,
}

struct Class {
    place: Place,
    slots: BinaryHeap<Reverse<(Score, usize)>>,
}

impl Queue {
    pub fn new(constraints: usize) -> Self {
        Self {
            classes: Vec::new(),
            by_place: HashMap::new(),
            open: BinaryHeap::new(),
            waiting: vec![BTreeMap::new(); constraints],
        }
    }

    /// The class of a place, made when it is asked for first.
    pub fn class(&mut self, place: Place) -> usize {
        *self.by_place.entry(place).or_insert_with_key(|place| {
            self.classes.push(Class {
                place: place.clone(),
                slots: BinaryHeap::new(),
            });
            self.classes.len() - 1
        })
    }

    /// Puts a node into its class; [`Queue::open`] makes it known.
    pub fn put(&mut self, class: usize, score: Score, slot: usize) {
        self.classes[class].slots.push(Reverse((score, slot)));
    }

    /// Offers the class with its best node, if it has one.
    pub fn open(&mut self, class: usize, spread: &Spread<'_, '_>) {
        if let Some(score) = self.classes[class].best(spread) {
            self.open.push(Reverse((score, class)));
        }
    }

    pub fn open_all(&mut self, spread: &Spread<'_, '_>) {
        for class in 0..self.classes.len() {
            self.open(class, spread);
        }
    }

    /// Takes the best node: its class, which is closed by it, and its slot.
    pub fn take(&mut self, spread: &Spread<'_, '_>) -> Option<(usize, usize)> {
        while let Some(Reverse((seen, index))) = self.open.pop() {
            let class = &mut self.classes[index];
            if let Some((rule, needed)) = spread.broken(&class.place) {
                self.waiting[rule].entry(needed).or_default().push(index);
                continue;
            }
            if class.best(spread) > Some(seen) {
                self.open(index, spread);
                continue;
            }
            if let Some(Reverse((_, slot))) = class.slots.pop() {
                return Some((index, slot));
            }
        }
        None
    }

    /// A pod of the batch was placed in the class: its domains have one more, and whoever waited for that is open.
    pub fn landed(&mut self, class: usize, spread: &mut Spread<'_, '_>) {
        for (rule, least) in spread.land(&self.classes[class].place) {
            let later = self.waiting[rule].split_off(&(least + 1));
            let now = std::mem::replace(&mut self.waiting[rule], later);
            for class in now.into_values().flatten() {
                self.open(class, spread);
            }
        }
    }

    /// Nodes that wait, by constraint.
    pub fn waiting(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.waiting.iter().enumerate().map(|(rule, classes)| {
            let classes = classes.values().flatten();
            (rule, classes.map(|c| self.classes[*c].slots.len()).sum())
        })
    }
}

impl Class {
    fn best(&self, spread: &Spread<'_, '_>) -> Option<Score> {
        let Reverse((score, _)) = self.slots.peek()?;
        Some(score.with_fullness(spread.fullness(&self.place)))
    }
}
