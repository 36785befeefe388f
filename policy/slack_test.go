//go:build !race

package policy

// slack is how much longer than it must be something may take in a test.
const slack = 1
