//go:build race

package resource_test

// slack is larger under the race detector, which makes reading ten times slower.
const slack = 10
