"""The service in simulated time: arrivals, the production router, replicas, a scaler."""

from __future__ import annotations

import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import count

import numpy as np
from simpy import Environment
from simpy.events import Event, Timeout

from loadtest.simulator.fleet import Fleet
from loadtest.simulator.report import Report, Sample
from loadtest.simulator.request import Request
from loadtest.simulator.scalers import Observation, PoolTraffic, Scaler
from loadtest.simulator.scenario import Scenario
from loadtest.simulator.windows import TICK_S, Window
from serve_app.autoscaling.views import Demand
from serve_app.routing.fairness import FULL, may_enter
from serve_app.routing.policies import POLICIES, Policy, PolicyOptions
from serve_app.routing.router import Decision, Refusal, Wishes, route
from serve_app.routing.work import Work

SAMPLE_S = 60.0
DEMAND_WINDOW_S = 30.0
TRAFFIC_WINDOW_S = 60.0
# What is under way when arrivals end may take this long; what is not done then is unanswered.
GRACE_S = 3600.0

_NO_WISHES = Wishes()
_ROUNDING_S = 1e-5  # latencies are kept in single precision

Progress = Callable[[float], None]


def simulate(
    scenario: Scenario,
    scaler: Scaler,
    seed: int,
    *,
    scaler_name: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run ``scenario`` with ``scaler``; arrivals depend on the seed alone, not on the scaler.

    Args:
        scenario: what happens.
        scaler: fresh, since most remember what they saw.
        seed: equal seeds give equal reports.
        scaler_name: for the report; the class' name without it.
        progress: told after each simulated minute which part is done.
    """
    return Simulation(scenario, scaler, seed, progress).run(scaler_name or type(scaler).__name__)


class Simulation:
    """One run. The fleets call back through ``answered``, ``lost`` and ``capacity_came``.

    Attributes:
        fleets: by pool.
        latencies: seconds from arrival to answer, in the order of answers.
    """

    def __init__(
        self, scenario: Scenario, scaler: Scaler, seed: int, progress: Progress | None = None
    ) -> None:
        self._scenario = scenario
        self._scaler = scaler
        self._seed = seed
        self._progress = progress
        self._env = env = Environment()
        rng = random.Random(seed)
        learns = scenario.learns or scenario.policy == "failover"
        self.fleets = {
            spec.name: Fleet(
                env,
                self,
                spec,
                scenario.default,
                scenario.slo_s,
                rng,
                learns=learns,
                max_ongoing=scenario.max_ongoing,
            )
            for spec in scenario.pools
        }
        self._snapshots = [fleet.snapshot for fleet in self.fleets.values()]
        self._policy = self._make_policy(scenario.policy)
        self._limits = scenario.limits
        self._late = scenario.late
        for name, fleet in self.fleets.items():
            fleet.warm(scenario.initial.get(name, fleet.spec.min_replicas))

        self._arrived = 0
        self._arrived_row_steps = 0.0
        self._refused = 0
        self._unanswered = 0
        self._retried = 0
        self._returning = 0
        self.latencies = array("f")
        # The same, each over what its work may take (``Work.allowance``): what scalers go by.
        self._judged = array("f")
        self._held: deque[Request] = deque()
        self._held_row_steps = 0.0

        self._pictures = Window(DEMAND_WINDOW_S)
        self._row_steps = Window(DEMAND_WINDOW_S)
        self._answers = Window(TRAFFIC_WINDOW_S)
        self._routed_to = {name: Window(TRAFFIC_WINDOW_S) for name in self.fleets}
        self._answers_of = {name: Window(TRAFFIC_WINDOW_S) for name in self.fleets}
        self._samples: list[Sample] = []
        self._sampled = (0.0, 0, 0.0, 0)

        # Arrivals must not depend on what else is random.
        self._draws = np.random.default_rng(seed)
        self._blocks = scenario.arrivals.times(self._draws, scenario.duration_s)
        self._times: list[float] = []
        self._works: list[Work] = []
        self._next = 0

    def run(self, scaler_name: str) -> Report:
        """Simulate until every request has its outcome, and report."""
        env, scenario = self._env, self._scenario
        started = time.perf_counter()
        if self._draw():
            Timeout(env, self._times[0]).callbacks.append(self._arrive)
        self._every(TICK_S, self._tick)
        self._every(SAMPLE_S, self._sample)
        self._every(self._scaler.period_s, self._scale)
        if scenario.controller is not None:
            controller = scenario.controller()
            self._every(controller.period_s, lambda now: controller.control(now, self))
        env.run(until=scenario.duration_s)
        self._sample(env.now)
        for fleet in self.fleets.values():
            fleet.settle(env.now)
        dollars = sum(fleet.dollars for fleet in self.fleets.values())
        samples = tuple(self._samples)
        while self._open and env.now < scenario.duration_s + GRACE_S:
            env.run(until=env.now + TICK_S)
        self._unanswered += self._open
        return self._report(scaler_name, dollars, samples, wall_s=time.perf_counter() - started)

    # -- arrivals and answers: the hot path

    def _draw(self) -> bool:
        """Draw the next block of arrivals; false when there is none."""
        for block in self._blocks:
            if block.size:
                self._times = block.tolist()
                self._works = self._scenario.mix.draw(self._draws, block.size)
                self._next = 0
                return True
        return False

    def _arrive(self, _: Event) -> None:
        env = self._env
        now = env.now
        work = self._works[self._next]
        self._arrived += 1
        self._arrived_row_steps += work.row_steps
        self._send(Request(work, now), now)
        self._next += 1
        if self._next < len(self._times) or self._draw():
            delay = self._times[self._next] - now
            # The clock is a sum of delays, so it may be a rounding ahead of the next arrival.
            Timeout(env, delay if delay > 0.0 else 0.0).callbacks.append(self._arrive)

    def _send(self, request: Request, now: float) -> None:
        # One that was lost has had its turn.
        if self._late and not request.failed and not self._fits(request.work, self._held):
            self._hold(request)
            return
        decision = self._route(request, now)
        if isinstance(decision, Refusal):
            self._turn_away(request, decision, now)
        else:
            self.fleets[decision.pool.name].send(request, decision.predicted_s, now)

    def _route(self, request: Request, now: float) -> Decision | Refusal:
        return route(
            self._snapshots,
            self._policy,
            request.work,
            now,
            wishes=_NO_WISHES,
            limits=self._limits,
            failed=request.failed,
        )

    def _fits(self, work: Work, ahead: Collection[Request] = ()) -> bool:
        """Whether the ingress' gate would let it through; where no pool is up, it is not asked."""
        inside = room = 0.0
        for fleet in self.fleets.values():
            inside += fleet.load.rows
            room += fleet.room
        return room == 0 or may_enter(work.rows, inside, FULL * room, ahead=bool(ahead))

    def answered(self, fleet: Fleet, request: Request, now: float) -> None:
        """See ``Service.answered``."""
        took_s = now - request.arrived_s
        self.latencies.append(took_s)
        self._judged.append(took_s / request.work.allowance(self._scenario.default))
        if self._held:  # their turn comes before that of whoever arrives next
            self._send_held(now)

    # -- what goes wrong

    def lost(self, fleet: Fleet, requests: list[Request], now: float) -> None:
        """One retry each, on another pool if there is one."""
        for request in requests:
            if request.failed:
                self._unanswered += 1
                continue
            request.failed = (fleet.spec.name,)
            self._retried += 1
            self._returning += 1

            # Not before everything else that happens at this instant: what strikes several pools
            # must not catch a request twice.
            def again(_: Event, request: Request = request) -> None:
                self._returning -= 1
                self._send(request, self._env.now)

            Timeout(self._env, 0.0).callbacks.append(again)

    def capacity_came(self, now: float) -> None:
        """See ``Service.capacity_came``."""
        self._send_held(now)

    def _turn_away(self, request: Request, refusal: Refusal, now: float) -> None:
        if refusal.code != "unavailable" or self._scenario.hold_s <= 0:
            self._refused += 1
            return
        self._hold(request)

        def expire(_: Event) -> None:
            self._expire(request)

        Timeout(self._env, self._scenario.hold_s).callbacks.append(expire)

    def _hold(self, request: Request) -> None:
        request.held = True
        self._held.append(request)
        self._held_row_steps += request.work.row_steps

    def _expire(self, request: Request) -> None:
        if request.held and not any(fleet.ready for fleet in self.fleets.values()):
            self._held.remove(request)
            self._release(request)
            self._unanswered += 1

    def _release(self, request: Request) -> None:
        request.held = False
        self._held_row_steps -= request.work.row_steps
        if not self._held:
            self._held_row_steps = 0.0

    def _send_held(self, now: float) -> None:
        """First come, first served, while the router takes them."""
        while self._held:
            request = self._held[0]
            if self._late and not self._fits(request.work):
                return
            decision = self._route(request, now)
            if isinstance(decision, Refusal):
                return
            self._held.popleft()
            self._release(request)
            self.fleets[decision.pool.name].send(request, decision.predicted_s, now)

    @property
    def _open(self) -> int:
        """Requests without an outcome; counted where they are, not by what is missing."""
        sent = sum(fleet.load.requests for fleet in self.fleets.values())
        return sent + len(self._held) + self._returning

    # -- what happens now and then

    def _every(self, period_s: float, act: Callable[[float], None]) -> None:
        # Counted, not added up, so that ticks do not drift.
        turns = count(1)

        def again(_: Event) -> None:
            now = self._env.now
            act(now)
            plan()

        def plan() -> None:
            delay = next(turns) * period_s - self._env.now
            Timeout(self._env, max(0.0, delay)).callbacks.append(again)

        plan()

    def _tick(self, now: float) -> None:
        self._pictures.note(now, self._arrived)
        self._row_steps.note(now, self._arrived_row_steps)
        self._answers.note(now, len(self.latencies))
        for name, fleet in self.fleets.items():
            self._routed_to[name].note(now, fleet.routed)
            self._answers_of[name].note(now, fleet.answers)
        if self._held:
            self._send_held(now)

    def _scale(self, now: float) -> None:
        for name, target in self._scaler.decide(now, self.observation(now)).items():
            self.fleets[name].ask(target, now)

    def observation(self, now: float) -> Observation:
        """What a scaler is shown."""
        queued = sum(fleet.queued for fleet in self.fleets.values())
        demand = Demand(
            row_steps_per_s=self._row_steps.rate(now, self._arrived_row_steps),
            pictures_per_s=self._pictures.rate(now, self._arrived),
            backlog=queued + self._held_row_steps,
            p95_s=self._p95(self._judged, int(self._answers.since())),
        )
        traffic = {
            name: PoolTraffic(
                arrivals_per_s=self._routed_to[name].rate(now, fleet.routed),
                ongoing=fleet.load.requests,
                images_per_s=self._answers_of[name].rate(now, fleet.answers),
            )
            for name, fleet in self.fleets.items()
        }
        return Observation([fleet.view() for fleet in self.fleets.values()], demand, traffic)

    @staticmethod
    def _p95(seconds: array[float], since: int) -> float | None:
        """Of the answers from the ``since``-th on; exact, by nearest rank."""
        if since >= len(seconds):
            return None
        # A copy: an array that is shared with numpy could not grow.
        latest = np.frombuffer(seconds[since:], dtype=np.float32)
        rank = int(np.ceil(0.95 * latest.size)) - 1
        return float(np.partition(latest, rank)[rank])

    def _sample(self, now: float) -> None:
        last, arrived, row_steps, answers = self._sampled
        elapsed_s = now - last
        if elapsed_s <= 0:
            return
        self._samples.append(
            Sample(
                at_s=now,
                pictures_per_s=(self._arrived - arrived) / elapsed_s,
                row_steps_per_s=(self._arrived_row_steps - row_steps) / elapsed_s,
                p95_s=self._p95(self.latencies, answers),
                dollars_per_hour=sum(fleet.cost_per_hour for fleet in self.fleets.values()),
                ready={name: fleet.ready for name, fleet in self.fleets.items()},
                target={name: fleet.target for name, fleet in self.fleets.items()},
            )
        )
        self._sampled = (now, self._arrived, self._arrived_row_steps, len(self.latencies))
        if self._progress is not None:
            self._progress(min(1.0, now / self._scenario.duration_s))

    # -- what controllers may do

    def starved(self) -> Mapping[str, int]:
        """See ``Controls.starved``."""
        return {name: fleet.unlaunched for name, fleet in self.fleets.items()}

    def weights(self) -> Mapping[str, float]:
        """See ``Controls.weights``."""
        return {name: fleet.snapshot.weight for name, fleet in self.fleets.items()}

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """See ``Controls.set_weights``."""
        for name, weight in weights.items():
            self.fleets[name].snapshot.weight = weight

    def set_policy(self, name: str) -> None:
        """See ``Controls.set_policy``."""
        self._policy = self._make_policy(name)

    def _make_policy(self, name: str) -> Policy:
        return POLICIES[name](PolicyOptions(slo_s=self._scenario.slo_s))

    def _report(
        self,
        scaler_name: str,
        dollars: float,
        samples: tuple[Sample, ...],
        wall_s: float,
    ) -> Report:
        latencies = np.frombuffer(self.latencies, dtype=np.float32)
        answered = latencies.size
        mean_s: float | None = None
        percentiles: list[float | None] = [None, None, None]
        if answered:
            mean_s = float(latencies.mean(dtype=np.float64))
            percentiles = [float(at) for at in np.percentile(latencies, (50, 95, 99))]
        within = int(np.count_nonzero(latencies <= self._scenario.slo_s + _ROUNDING_S))
        return Report(
            scenario=self._scenario.name,
            scaler=scaler_name,
            seed=self._seed,
            slo_s=self._scenario.slo_s,
            requests=self._arrived,
            answered=answered,
            refused=self._refused,
            unanswered=self._unanswered,
            retried=self._retried,
            attainment=within / self._arrived if self._arrived else 1.0,
            mean_s=mean_s,
            p50_s=percentiles[0],
            p95_s=percentiles[1],
            p99_s=percentiles[2],
            dollars=dollars,
            shares={
                name: fleet.answers / answered if answered else 0.0
                for name, fleet in self.fleets.items()
            },
            changes={name: fleet.changes for name, fleet in self.fleets.items()},
            changed_at={name: tuple(fleet.changed_at) for name, fleet in self.fleets.items()},
            samples=samples,
            wall_s=wall_s,
        )
