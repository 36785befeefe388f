//go:build !race

package server

const raceSlack = 3 // how much longer things may take, since others use the machine too
