//! The automaton behind a policy: places in rules' paths, followed all at once, made deterministic as it is walked.
//!
//! States and settings are only ever added, so references to them live as long as the policy and readers need no
//! lock. The one mutex is taken to make a state that didn't exist yet.
//!
//! Lock order: `interned`, then a state's `by_places` or `by_matches`; the latter two are never held together.

use std::sync::OnceLock;

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use super::{DirState, Here, Limits, SettingsId};
use crate::rule::{DiesWith, Files, Key, RuleId, RuleSpec, Settings, Step, Unit, Values};
use crate::units::{Size, Ttl};

/// An index into the rules. A configuration has at most 1024.
type RuleIndex = u16;

/// For each inherited key the rule that settles it; 0, the defaults, also where nobody does.
type Sources = [RuleIndex; Key::INHERITED.len()];

/// How far a rule's path has been followed: its first `at` steps are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    rule: RuleIndex,
    at: u16,
}

/// An index into the settings.
#[derive(Debug, Clone, Copy)]
struct SettingsIndex(usize);

/// Everything that tells one state from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Essence {
    /// Sorted. None with nothing left to follow.
    places: Vec<Place>,
    sources: Sources,
    /// The rule without `match` that comes first.
    first: RuleIndex,
    /// The rules with `match` that are in force, the first to ask last.
    matching: Vec<RuleIndex>,
    /// The rules of exactly this directory that say something about it alone.
    own: Vec<RuleIndex>,
    is_rules_own: bool,
    in_byte_limit: bool,
}

#[derive(Debug)]
struct State {
    essence: Essence,
    settings: SettingsIndex,
    /// Beside each of `matching`: the settings where it alone matches.
    match_settings: Vec<SettingsIndex>,
    here: Here,
    ttl_may_apply: bool,
    any_byte_limit: bool,
    /// Indices into `places` by the literal name that they wait for.
    literals: HashMap<Vec<u8>, Vec<usize>>,
    /// Indices into `places` of names with stars.
    stars: Vec<usize>,
    /// Where every name leads that no place asks for in particular.
    otherwise: OnceLock<DirState>,
    by_places: RwLock<HashMap<Vec<usize>, DirState>>,
    by_matches: RwLock<HashMap<Vec<RuleIndex>, SettingsIndex>>,
}

#[derive(Debug, Default)]
struct Interned {
    states: HashMap<Essence, DirState>,
    settings: HashMap<(Sources, RuleIndex), SettingsIndex>,
}

#[derive(Debug)]
pub(super) struct Automaton {
    rules: Vec<RuleSpec>,
    backing_bytes: u64,
    states: boxcar::Vec<State>,
    settings: boxcar::Vec<Settings>,
    interned: Mutex<Interned>,
    root: DirState,
}

impl Automaton {
    pub(super) fn new(rules: Vec<RuleSpec>, backing_bytes: u64) -> Automaton {
        let (states, settings, interned) = Default::default();
        let mut automaton = Automaton {
            rules,
            backing_bytes,
            states,
            settings,
            interned,
            root: DirState(0),
        };
        let (mut places, mut arrived) = (Vec::new(), Vec::new());
        for rule in 0..automaton.rules.len() as RuleIndex {
            automaton.arrive(Place { rule, at: 0 }, &mut places, &mut arrived);
        }
        let outside = Essence {
            places: Vec::new(),
            sources: [0; Key::INHERITED.len()],
            first: 0,
            matching: Vec::new(),
            own: Vec::new(),
            is_rules_own: false,
            in_byte_limit: false,
        };
        automaton.root = automaton.state_of(automaton.essence(&outside, places, arrived));
        automaton
    }

    pub(super) fn rules(&self) -> &[RuleSpec] {
        &self.rules
    }

    pub(super) fn root(&self) -> DirState {
        self.root
    }

    pub(super) fn here(&self, dir: DirState) -> &Here {
        &self.state(dir).here
    }

    pub(super) fn ttl_may_apply(&self, dir: DirState) -> bool {
        self.state(dir).ttl_may_apply
    }

    pub(super) fn any_byte_limit(&self, dir: DirState) -> bool {
        self.state(dir).any_byte_limit
    }

    pub(super) fn has_rules_below(&self, dir: DirState) -> bool {
        !self.state(dir).essence.places.is_empty()
    }

    pub(super) fn settings(&self, dir: DirState) -> &Settings {
        &self.settings[self.state(dir).settings.0]
    }

    fn state(&self, dir: DirState) -> &State {
        self.states
            .get(dir.0 as usize)
            .expect("a state is only used with the policy that made it")
    }

    pub(super) fn enter(&self, dir: DirState, name: &[u8]) -> DirState {
        let state = self.state(dir);
        let literals = state.literals.get(name).map_or(&[][..], Vec::as_slice);
        if literals.is_empty() && state.stars.is_empty() {
            return self.enter_otherwise(state);
        }
        let stars = state
            .stars
            .iter()
            .copied()
            .filter(|&place| self.step(state.essence.places[place]).matches(name));
        let asked: Vec<usize> = literals.iter().copied().chain(stars).collect();
        if asked.is_empty() {
            return self.enter_otherwise(state);
        }
        if let Some(&known) = state.by_places.read().get(&asked) {
            return known;
        }
        let next = self.follow(state, &asked);
        state.by_places.write().insert(asked, next);
        next
    }

    fn enter_otherwise(&self, state: &State) -> DirState {
        *state.otherwise.get_or_init(|| self.follow(state, &[]))
    }

    pub(super) fn settings_for(&self, dir: DirState, name: &[u8]) -> &Settings {
        self.settings_by_id(self.settings_id_for(dir, name))
    }

    pub(super) fn settings_by_id(&self, id: SettingsId) -> &Settings {
        &self.settings[id.0 as usize]
    }

    pub(super) fn settings_id_for(&self, dir: DirState, name: &[u8]) -> SettingsId {
        SettingsId(self.settings_index_for(dir, name).0 as u32)
    }

    fn settings_index_for(&self, dir: DirState, name: &[u8]) -> SettingsIndex {
        let state = self.state(dir);
        let mut matches = state
            .essence
            .matching
            .iter()
            .enumerate()
            .filter(|(_, rule)| self.globs_match(**rule, name));
        let Some((first, &first_rule)) = matches.next() else {
            return state.settings;
        };
        let Some((_, &second_rule)) = matches.next() else {
            return state.match_settings[first];
        };
        let matches: Vec<RuleIndex> = [first_rule, second_rule]
            .into_iter()
            .chain(matches.map(|(_, &rule)| rule))
            .collect();
        if let Some(&known) = state.by_matches.read().get(&matches) {
            return known;
        }
        let settings = self.settle(&mut self.interned.lock(), &state.essence, &matches);
        state.by_matches.write().insert(matches, settings);
        settings
    }

    pub(super) fn origin(&self, dir: DirState, name: Option<&[u8]>, key: Key) -> RuleId {
        if !key.is_inherited() {
            return RuleId::DEFAULTS;
        }
        let essence = &self.state(dir).essence;
        let matching = essence.matching.iter().rev().filter(|rule| {
            name.is_some_and(|name| self.globs_match(**rule, name)) && self.values(**rule).has(key)
        });
        RuleId(u32::from(
            matching
                .copied()
                .next()
                .unwrap_or(essence.sources[key as usize]),
        ))
    }

    fn globs_match(&self, rule: RuleIndex, name: &[u8]) -> bool {
        self.rules[usize::from(rule)].globs.matches(name)
    }

    fn values(&self, rule: RuleIndex) -> &Values {
        &self.rules[usize::from(rule)].values
    }

    fn step(&self, place: Place) -> &Step {
        &self.rules[usize::from(place.rule)].path.steps()[usize::from(place.at)]
    }

    /// Adds a place, and those that are reached from it without a name. A path that is at its end has arrived.
    fn arrive(&self, place: Place, places: &mut Vec<Place>, arrived: &mut Vec<RuleIndex>) {
        let steps = self.rules[usize::from(place.rule)].path.steps();
        match &steps[usize::from(place.at)..] {
            [] => arrived.push(place.rule),
            // `**` can stand for nothing, but at the end of a path for at least one directory.
            [Step::Deep, _, ..] => {
                places.push(place);
                self.arrive(
                    Place {
                        at: place.at + 1,
                        ..place
                    },
                    places,
                    arrived,
                );
            }
            _ => places.push(place),
        }
    }

    /// The state after a name that matches the `asked` ones among the places that wait for particular names.
    fn follow(&self, state: &State, asked: &[usize]) -> DirState {
        let (mut places, mut arrived) = (Vec::new(), Vec::new());
        for (index, &place) in state.essence.places.iter().enumerate() {
            let next = Place {
                at: place.at + 1,
                ..place
            };
            match self.step(place) {
                Step::Literal(_) | Step::Stars(_) if asked.contains(&index) => {
                    self.arrive(next, &mut places, &mut arrived);
                }
                Step::Literal(_) | Step::Stars(_) => {}
                Step::Any => self.arrive(next, &mut places, &mut arrived),
                // `**` has eaten the name and stays; it may also end here.
                Step::Deep => {
                    self.arrive(place, &mut places, &mut arrived);
                    if usize::from(next.at)
                        == self.rules[usize::from(place.rule)].path.steps().len()
                    {
                        arrived.push(place.rule);
                    }
                }
            }
        }
        self.state_of(self.essence(&state.essence, places, arrived))
    }

    /// A directory's essence, from that of the directory around it and the rules whose paths have arrived at it.
    fn essence(
        &self,
        around: &Essence,
        mut places: Vec<Place>,
        mut arrived: Vec<RuleIndex>,
    ) -> Essence {
        places.sort_unstable();
        places.dedup();
        arrived.sort_unstable();
        arrived.dedup();
        let mut essence = Essence {
            places,
            own: Vec::new(),
            is_rules_own: false,
            ..around.clone()
        };
        // Whatever arrives here is deeper than all that came before it, and comes before it; the later, the sooner.
        for rule in arrived {
            let spec = &self.rules[usize::from(rule)];
            essence.is_rules_own |= spec.path.steps().last() != Some(&Step::Deep);
            if !spec.globs.is_empty() {
                essence
                    .matching
                    .retain(|&other| other != rule && !self.is_covered(other, rule));
                essence.matching.push(rule);
                continue;
            }
            essence.first = rule;
            for key in spec.values.keys().filter(|key| key.is_inherited()) {
                essence.sources[key as usize] = rule;
            }
            if spec.values.keys().any(|key| !key.is_inherited()) {
                essence.own.push(rule);
                let quota = spec
                    .values
                    .quota
                    .and_then(|quota| quota.limit_bytes(self.backing_bytes));
                essence.in_byte_limit |=
                    quota.is_some() || spec.values.user_quota.and_then(Size::limit_bytes).is_some();
            }
        }
        essence
    }

    /// Is nothing left of a rule with `match` once another one comes before it? Then it need not tell states apart.
    fn is_covered(&self, lower: RuleIndex, upper: RuleIndex) -> bool {
        self.rules[usize::from(lower)].globs == self.rules[usize::from(upper)].globs
            && self
                .values(lower)
                .keys()
                .all(|key| self.values(upper).has(key))
    }

    fn state_of(&self, essence: Essence) -> DirState {
        let mut interned = self.interned.lock();
        if let Some(&known) = interned.states.get(&essence) {
            return known;
        }
        let state = self.make_state(&mut interned, essence.clone());
        let index = self.states.push(state);
        let dir = DirState(u32::try_from(index).expect("memory ends long before 2^32 states"));
        interned.states.insert(essence, dir);
        dir
    }

    fn make_state(&self, interned: &mut Interned, essence: Essence) -> State {
        let settings = self.settle(interned, &essence, &[]);
        let match_settings: Vec<SettingsIndex> = essence
            .matching
            .iter()
            .map(|&rule| self.settle(interned, &essence, &[rule]))
            .collect();
        let settled = &self.settings[settings.0];
        let own = || {
            essence
                .own
                .iter()
                .map(|&rule| (RuleId(u32::from(rule)), &self.rules[usize::from(rule)]))
        };
        let here = Here {
            limits: Limits::merge(own(), settled, self.backing_bytes),
            unit: own()
                .filter_map(|(_, rule)| rule.values.unit)
                .last()
                .unwrap_or(Unit::File),
            files: if own().any(|(_, rule)| rule.values.files == Some(Files::Deny)) {
                Files::Deny
            } else {
                Files::Allow
            },
            is_rules_own: essence.is_rules_own,
        };
        let later = essence
            .places
            .iter()
            .map(|place| place.rule)
            .chain(essence.matching.iter().copied());
        let ttl_may_apply =
            settled.may_expire() || later.into_iter().any(|rule| may_expire(self.values(rule)));
        let any_byte_limit = essence.in_byte_limit
            || settled.max_file.is_some()
            || match_settings
                .iter()
                .any(|settings| self.settings[settings.0].max_file.is_some());
        let (mut literals, mut stars) = (HashMap::<Vec<u8>, Vec<usize>>::new(), Vec::new());
        for (index, &place) in essence.places.iter().enumerate() {
            match self.step(place) {
                Step::Literal(name) => literals.entry(name.clone()).or_default().push(index),
                Step::Stars(_) => stars.push(index),
                Step::Any | Step::Deep => {}
            }
        }
        State {
            essence,
            settings,
            match_settings,
            here,
            ttl_may_apply,
            any_byte_limit,
            literals,
            stars,
            otherwise: OnceLock::new(),
            by_places: RwLock::default(),
            by_matches: RwLock::default(),
        }
    }

    /// The settings where exactly these rules with `match` match, the first to ask last.
    fn settle(
        &self,
        interned: &mut Interned,
        essence: &Essence,
        matches: &[RuleIndex],
    ) -> SettingsIndex {
        let (mut sources, mut first) = (essence.sources, essence.first);
        for &rule in matches {
            first = rule;
            for key in self.values(rule).keys().filter(|key| key.is_inherited()) {
                sources[key as usize] = rule;
            }
        }
        *interned
            .settings
            .entry((sources, first))
            .or_insert_with(|| {
                let settings = Settings::settle(RuleId(u32::from(first)), |key| {
                    self.values(sources[key as usize])
                });
                SettingsIndex(self.settings.push(settings))
            })
    }

    /// How many states there are, for tests of their number.
    #[cfg(test)]
    pub(super) fn states(&self) -> usize {
        self.states.count()
    }
}

/// Can a rule with these values make anything expire?
fn may_expire(values: &Values) -> bool {
    let ends = |ttl: Option<Ttl>| ttl.is_some_and(|ttl| ttl != Ttl::Never);
    ends(values.ttl)
        || ends(values.max_ttl)
        || values.dies_with.is_some_and(|with| with != DiesWith::None)
}
