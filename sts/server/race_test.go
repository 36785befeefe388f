//go:build race

package server

const raceSlack = 10 // how much longer things may take
