//go:build race

package keys

// modelChecks is how many worlds the model tries, with a schedule each.
const modelChecks = "100"
