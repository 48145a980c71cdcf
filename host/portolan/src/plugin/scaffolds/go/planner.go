// The planner of {{name}}.
package export_portolan_policy_planner

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"

	witTypes "go.bytecodealliance.org/pkg/wit/types"
	"wit_component/portolan_policy_draft"
	"wit_component/portolan_policy_facts"
	"wit_component/portolan_policy_routing_answers"
	"wit_component/portolan_policy_types"
)

type (
	refusal = portolan_policy_types.Refusal
	outcome = witTypes.Result[witTypes.Unit, refusal]
)

// Plan reads facts and writes the plan.
func Plan(config string) outcome {
	if why := plan(config); why != nil {
		return witTypes.Err[witTypes.Unit](*why)
	}
	return witTypes.Ok[witTypes.Unit, refusal](witTypes.Unit{})
}

func plan(text string) *refusal {
	var config struct {
		Pool string `json:"pool"`
	}
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return &refusal{Code: 4, Message: err.Error()}
	}
	var answers []uint32
	for _, region := range nearestFirst(config.Pool) {
		answer := portolan_policy_routing_answers.Forward(region, config.Pool)
		if answer.IsErr() {
			return refused(answer)
		}
		answers = append(answers, answer.Ok())
	}
	if len(answers) == 0 {
		return &refusal{Code: 4, Message: fmt.Sprintf("no region has the pool %s", config.Pool)}
	}

%%decider
	// Who has a name stays in one region, whichever that is.
	if left := portolan_policy_draft.Memo([]byte{byte(len(answers))}); left.IsErr() {
		return refused(left)
	}
	named := portolan_policy_types.Condition{Attribute: "header:x-user", Test: "present"}
	rule := portolan_policy_draft.Dynamic(
		[]portolan_policy_types.Condition{named}, []string{"header:x-user"}, answers)
	if why := call(rule, "by-user"); why != nil {
		return why
	}

%%end
	nearest := portolan_policy_types.Share{Answer: answers[0], Weight: 1}
	return call(portolan_policy_draft.Split(nil, []portolan_policy_types.Share{nearest}, answers[1:]), "everybody")
}

// call gives a new rule its name.
func call(rule witTypes.Result[uint32, refusal], name string) *refusal {
	if rule.IsErr() {
		return refused(rule)
	}
	if named := portolan_policy_draft.SetRule(rule.Ok(), "name", name); named.IsErr() {
		return refused(named)
	}
	return nil
}

func refused[T any](result witTypes.Result[T, refusal]) *refusal {
	why := result.Err()
	return &why
}

// nearestFirst gives the regions with the pool: the local one, then by latency; those of unknown latency come last.
func nearestFirst(pool string) []string {
	local := portolan_policy_facts.LocalRegion()
	latencies := map[string]uint64{}
	var regions []string
	for _, region := range portolan_policy_facts.Regions() {
		if !slices.Contains(portolan_policy_facts.Pools(region), pool) {
			continue
		}
		latencies[region] = math.MaxUint64
		if known := portolan_policy_facts.LatencyUs(local, region); known.IsSome() {
			latencies[region] = 1 + uint64(known.Some())
		}
		if region == local {
			latencies[region] = 0
		}
		regions = append(regions, region)
	}
	sort.SliceStable(regions, func(i, j int) bool { return latencies[regions[i]] < latencies[regions[j]] })
	return regions
}
