// The decider of {{name}}.
package export_portolan_policy_decider

import (
	"hash/fnv"

	witTypes "go.bytecodealliance.org/pkg/wit/types"
)

// What `plan` left: how many regions there are.
var regions uint32 = 1

// Start is called once per instance.
func Start(config string, memo []uint8) witTypes.Result[witTypes.Unit, string] {
	if len(memo) == 1 && memo[0] > 0 {
		regions = uint32(memo[0])
	}
	return witTypes.Ok[witTypes.Unit, string](witTypes.Unit{})
}

// Decide gives the place of a region among the rule's answers.
func Decide(rule uint32, nowMs uint64, seed uint64, values []witTypes.Option[string]) uint32 {
	hash := fnv.New32a()
	if len(values) > 0 && values[0].IsSome() {
		hash.Write([]byte(values[0].Some()))
	}
	return hash.Sum32() % regions
}
