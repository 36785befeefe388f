//go:build !race

package policy

// slack is how much longer than the rows of the threat model say a test may
// take: other tests run at the same time.
const slack = 5
