//go:build !race

package resource_test

const slack = 1
