//go:build race

package policy

// slack is larger under the race detector, which makes expressions ten times
// slower.
const slack = 40
